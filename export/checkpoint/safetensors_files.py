"""Checkpoints in the format of safetensors."""

from __future__ import annotations

import json
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from ..._install import install
from ...errors import BackendError
from .source import LARGEST_STATE, Unreadable

if TYPE_CHECKING:
    import torch

# The library takes 100 MB; a thousand tensors are described in 100 kB.
_LARGEST_HEADER = 8 * 2**20


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is one: the header's length, and JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def read_safetensors(path: Path, file: BufferedReader) -> dict[str, torch.Tensor]:
    """All tensors of the open file ``path``.

    Raises:
        Unreadable: damaged, or too large.
        BackendError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise BackendError(
            f"reading {path.name} needs safetensors, which cannot be imported ({error}). "
            f"Install it: {install('export')}, or pip install safetensors"
        ) from error
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LARGEST_HEADER, size):
        raise Unreadable(f"its header states {length} bytes, more than can be")
    if size > LARGEST_STATE:
        raise Unreadable(f"its {size / 1e9:.1f} GB are more than one of these models takes")
    # Names that JSON gives twice; the library takes the last.
    json.loads(file.read(length), object_pairs_hook=_once)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise Unreadable(f"it may be truncated ({error})") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise Unreadable("its header names something twice")
    return content
