"""Audio in: arrays and files become mono samples at the model's rate, checked and resampled."""

from .ahead import decode_ahead
from .arrays import as_samples, batch_rows
from .files import load
from .folders import AUDIO_SUFFIXES, find_audio
from .recording import Channel, Recording

__all__ = [
    "AUDIO_SUFFIXES",
    "Channel",
    "Recording",
    "as_samples",
    "batch_rows",
    "decode_ahead",
    "find_audio",
    "load",
]
