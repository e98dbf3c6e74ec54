"""Weights from a checkpoint file, a download or a seed; no code in a file is ever run."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, ExportError
from ..spec import WeightsSource
from ..weights import pretrained_path

if TYPE_CHECKING:
    import torch

    from .backbones.base import Backbone, Tensors

_SHOWN = 6  # names listed per kind of mismatch


def load_weights(
    backbone: Backbone, weights: str | os.PathLike[str]
) -> tuple[dict[str, torch.Tensor], WeightsSource]:
    """The state dict that ``weights`` names, in the official checkpoint's names, and its origin.

    Args:
        backbone: the model.
        weights: ``pretrained``, ``random:SEED`` (a non-negative integer) or the path of a
            checkpoint: ``.safetensors``, or what ``torch.save`` wrote, zipped or not, of a state
            dict or of ``{"model": state_dict}``.

    Raises:
        ExportError: a bad seed, no such file, no checkpoint, or one that needs code to be run.
        WeightsError: a download that failed.
        BackendError: ``.safetensors`` without safetensors installed.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"weights must be a str or a path, got {type(weights).__name__}")
    text = os.fspath(weights)
    if text == "pretrained":
        path, source = pretrained_path(backbone.name), text
    elif text == "random" or text.startswith("random:"):
        seed = text.partition(":")[2]
        if not re.fullmatch(r"[0-9]+", seed):
            raise ExportError(
                f"weights {text!r}: expected random:SEED with a non-negative integer, "
                "for example random:0"
            )
        state = backbone.random_state(int(seed))
        return state, WeightsSource(source=f"random:{int(seed)}", sha256=state_sha256(state))
    else:
        path = Path(text)
        source = path.name
    sha256 = _file_sha256(path)
    return read_checkpoint(path), WeightsSource(source=source, sha256=sha256)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, without the ``module.`` of ``DataParallel``.

    Raises:
        ExportError: no checkpoint, or one that needs code to be run.
        BackendError: ``.safetensors`` without safetensors installed.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    state = _tensors(content)
    if not state:
        raise ExportError(
            f"{path} holds no state dict (names and tensors), bare or under 'model': "
            "give the checkpoint as the model's authors published it"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def fit_tensors(
    state: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    optional: Collection[str] = (),
    ignored: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """The tensors of ``state`` that ``shapes`` names, once all of them fit.

    Args:
        state: a checkpoint's tensors.
        shapes: names and shapes of the model's tensors.
        optional: names that may be missing.
        ignored: prefixes of names that may be there and are not looked at.

    Raises:
        ExportError: lists missing and surplus names, wrong shapes and types, non-finite values.
    """
    missing = [name for name in shapes if name not in state and name not in optional]
    surplus = [
        name
        for name in state
        if name not in shapes
        and not name.startswith(ignored)
        and not name.endswith(".num_batches_tracked")
    ]
    found = {name: state[name] for name in shapes if name in state}
    wrong = [
        f"{name} is {list(tensor.shape)}, expected {list(shapes[name])}"
        for name, tensor in found.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    typed = [
        f"{name} ({tensor.dtype})" for name, tensor in found.items() if not _is_floating(tensor)
    ]
    infinite = [
        name
        for name, tensor in found.items()
        if _is_floating(tensor) and not bool(tensor.isfinite().all())
    ]
    problems = [
        *_listed("missing", missing),
        *_listed("surplus", surplus),
        *_listed("of a wrong shape", wrong),
        *_listed("no plain floating-point tensors", typed),
        *_listed("not finite", infinite),
    ]
    if problems:
        raise ExportError(
            f"the tensors do not fit: {'; '.join(problems)}. Give a checkpoint of this very model"
        )
    return found


def _is_floating(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has values that arithmetic can use: real, dense, on the CPU."""
    import torch

    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return tensor.dtype in types and tensor.layout == torch.strided and not tensor.is_meta


def _listed(what: str, items: list[str]) -> Iterator[str]:
    if items:
        rest = len(items) - _SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        yield f"{len(items)} {what}: {', '.join(items[:_SHOWN])}{more}"


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """``content`` if it is a state dict, and nothing otherwise."""
    import torch

    if not isinstance(content, Mapping):
        return {}
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        return {}
    return {name: tensor.detach() for name, tensor in content.items()}


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            warnings.simplefilter("ignore", UserWarning)  # what is odd in the file becomes an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in whatever way their bytes lead to
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise ExportError(
                f"{path} is not a plain checkpoint: it refers to {code[1]}, which is code. Nothing "
                "in it was run. Save the state dict alone, or use .safetensors"
            ) from error
        raise ExportError(
            f"{path} cannot be read as a PyTorch checkpoint ({type(error).__name__}): it may be "
            "truncated, another kind of file, or hold more than tensors and NumPy arrays; fetch it "
            "again, or save the state dict alone"
        ) from error


def _numpy_globals() -> list[Any]:
    """What a pickled NumPy array or scalar needs, under NumPy 1's and NumPy 2's module names.

    Published PANNs checkpoints carry the data sampler's index arrays beside the weights.
    """
    import numpy as np

    reconstruct: Any = np.ndarray.__reduce__(np.empty(0))[0]
    scalar: Any = np.float64(0.0).__reduce__()[0]
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    # Numbers and strings; an array of objects is refused.
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdSU"}
    return [*named, np.ndarray, np.dtype, *sorted(dtypes, key=lambda kind: kind.__name__)]


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise BackendError(
            f"reading {path.name} needs safetensors, which cannot be imported ({error}). "
            "Install it: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExportError(
            f"{path} cannot be read as safetensors ({error}): it may be truncated or "
            "another kind of file; fetch it again"
        ) from error


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExportError(
            f"weights {path}: {error.strerror}; expected 'pretrained', 'random:SEED' or the path "
            "of a checkpoint"
        ) from error


def state_sha256(state: Tensors) -> str:
    """SHA-256 of the tensors' bytes, in the order of their sorted names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].contiguous().numpy())
    return digest.hexdigest()
