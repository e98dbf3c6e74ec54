"""Weights from a checkpoint file, a download or a seed; no code in a file is ever run."""

from .fit import fit_tensors
from .load import load_weights, read_checkpoint, state_sha256

__all__ = ["fit_tensors", "load_weights", "read_checkpoint", "state_sha256"]
