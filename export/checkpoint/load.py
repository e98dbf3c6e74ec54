"""From ``--weights`` to a state dict in the names of the official checkpoint."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import BackendError, ExportError, FusionEngineError
from ...spec import WeightsSource
from ...weights import pretrained_path
from .choose import choose_state, strip_prefix
from .folders import file_in
from .pickles import RefersToCode, UnpicklingFailed
from .safetensors_files import is_safetensors, read_safetensors
from .source import Unreadable, guess_kind, open_regular
from .torch_files import TorchFile

if TYPE_CHECKING:
    import torch

    from ..backbones.base import Backbone, Tensors

_HEAD_BYTES = 512


def load_weights(
    backbone: Backbone,
    weights: str | os.PathLike[str],
    *,
    key: str | None = None,
    prefix: str | None = None,
) -> tuple[dict[str, torch.Tensor], WeightsSource]:
    """The state dict that ``weights`` names, in the official checkpoint's names, and its origin.

    Args:
        backbone: the model.
        weights: ``pretrained``, ``random:SEED`` (a non-negative integer) or the path of a
            checkpoint: what ``torch.save`` wrote, zipped or not, ``.safetensors``, or the folder
            that AST's ``save_pretrained`` of transformers wrote.
        key: the entry of the file that holds the state dict, with dots between entries in entries;
            ``None``: the only one, or the usual one.
        prefix: what the names of the model's tensors begin with; ``None``: what wrappers put there.

    Returns:
        The tensors; the origin, with the SHA-256 of the file, or of the tensors where they are
        random numbers or chosen with ``key`` or ``prefix``.

    Raises:
        ExportError: a bad seed, no such file, no checkpoint, one that needs code to be run, one
            that holds no or several state dicts.
        WeightsError: a download that failed.
        BackendError: ``.safetensors`` without safetensors installed, or memory that ran out.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be a str or a path, got {type(weights).__name__}")
    for name, value in (("key", key), ("prefix", prefix)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str or None, got {type(value).__name__}")
    text = os.fspath(weights)
    seed = re.fullmatch(r"random(?::(.*))?", text, re.DOTALL)
    if (text == "pretrained" or seed) and (key is not None or prefix is not None):
        raise ExportError(f"key and prefix are for a checkpoint's path, weights are {text!r}")
    if seed:
        if not re.fullmatch(r"[0-9]+", seed[1] or ""):
            raise ExportError(
                f"weights {text!r}: expected random:SEED with a non-negative integer, "
                "for example random:0"
            )
        state = backbone.random_state(int(seed[1]))
        return state, WeightsSource(source=f"random:{int(seed[1])}", sha256=state_sha256(state))
    if text == "pretrained":
        path, source = pretrained_path(backbone.name), text
    else:
        path = Path(text)
        source = path.name
        if os.path.isdir(path):  # noqa: PTH112 - that of pathlib raises where it cannot look
            source = path.resolve().name
            path = file_in(path, backbone.folder_config)
    with open_regular(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        state = _read(path, file, key=key, prefix=prefix, anchors=backbone.anchors)
    if key is not None or prefix is not None:
        # Several models in one file are not the same weights.
        sha256 = state_sha256(state)
    return state, WeightsSource(source=source, sha256=sha256)


def read_checkpoint(
    path: Path, *, key: str | None = None, prefix: str | None = None, anchors: Iterable[str] = ()
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, without what wrappers put before the names.

    Args:
        path: the file.
        key: as for ``load_weights``.
        prefix: as for ``load_weights``.
        anchors: one name for every way in which the model's tensors may be called.

    Raises:
        ExportError: no checkpoint, one that needs code to be run, none or several state dicts.
        BackendError: ``.safetensors`` without safetensors installed, or memory that ran out.
    """
    with open_regular(path) as file:
        return _read(path, file, key=key, prefix=prefix, anchors=anchors)


def _read(
    path: Path, file: BufferedReader, *, key: str | None, prefix: str | None, anchors: Iterable[str]
) -> dict[str, torch.Tensor]:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    safe = is_safetensors(head) or path.suffix == ".safetensors"
    try:
        if safe:
            return strip_prefix(choose_state(read_safetensors(path, file), key), prefix, anchors)
        if not head.startswith((b"PK\x03\x04", b"\x80")):
            raise Unreadable(guess_kind(head))
        saved = TorchFile(file)
        return saved.tensors(strip_prefix(choose_state(saved.content, key), prefix, anchors))
    except RefersToCode as error:
        raise ExportError(
            f"{path} is not a plain checkpoint: it refers to {error}, which is code. Nothing "
            "in it was run. Save the state dict alone, or use .safetensors"
        ) from error
    except MemoryError as error:
        raise BackendError(f"there is not enough memory to read {path}") from error
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from None
    except FusionEngineError:
        raise
    except Exception as error:  # damaged files fail in whatever way their bytes lead to
        known = isinstance(error, (Unreadable, UnpicklingFailed))
        broken = f"it is damaged, perhaps truncated ({type(error).__name__})"
        raise ExportError(
            f"{path} cannot be read as {'safetensors' if safe else 'a PyTorch checkpoint'}: "
            f"{error if known else broken}; fetch it again, or save the state dict alone"
        ) from error


def state_sha256(state: Tensors) -> str:
    """SHA-256 of the tensors' bytes, in the order of their sorted names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
