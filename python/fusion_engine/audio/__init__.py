"""Audio in: arrays and files become mono samples at the model's rate, checked and resampled."""

from .ahead import decode_ahead
from .arrays import as_samples, batch_rows
from .files import load
from .folders import AUDIO_SUFFIXES, find_audio, find_listed
from .listing import Listed, read_list
from .recording import Channel, Recording
from .shards import parse_shard, shard

__all__ = [
    "AUDIO_SUFFIXES",
    "Channel",
    "Listed",
    "Recording",
    "as_samples",
    "batch_rows",
    "decode_ahead",
    "find_audio",
    "find_listed",
    "load",
    "parse_shard",
    "read_list",
    "shard",
]
