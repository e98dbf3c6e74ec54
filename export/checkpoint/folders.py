"""Folders that ``save_pretrained`` of transformers wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ExportError
from .source import open_regular

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LARGEST_CONFIG = 2**20


def file_in(folder: Path, expected: Mapping[str, Any] | None) -> Path:
    """The weights in ``folder``, once its configuration is that of the model.

    Args:
        folder: holds ``config.json`` and the weights.
        expected: what the configuration must say, where it says it at all; ``None``: the model is
            not one of transformers.

    Raises:
        ExportError: no such folder, another model, another configuration.
    """
    if expected is None:
        raise ExportError(f"weights {folder}: expected a checkpoint file, got a folder")
    config = _read(folder)
    other = {
        name: config[name]
        for name, value in expected.items()
        if name in config and config[name] != value
    }
    if other:
        listed = ", ".join(
            f"{name} {str(value)[:100]!a}, expected {expected[name]!r}"
            for name, value in other.items()
        )
        raise ExportError(f"{folder / _CONFIG} is of a model that cannot be exported: {listed}")
    found = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise ExportError(f"weights {folder}: expected {' or '.join(_WEIGHTS)} in this folder")
    return folder / found


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / _CONFIG
    if not path.exists():
        raise ExportError(
            f"weights {folder}: expected a checkpoint file, or a folder that transformers' "
            f"save_pretrained wrote; this one has no {_CONFIG}"
        )
    with open_regular(path) as file:
        raw = file.read(_LARGEST_CONFIG + 1)
    try:
        config = json.loads(raw) if len(raw) <= _LARGEST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ExportError(f"{path} is not a configuration in JSON, or is damaged")
    return config
