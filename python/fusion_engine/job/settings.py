"""The settings of a job: runs that differ in one of them do not mix."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._atomic import atomic_path, write_error
from .._json import short
from .._sync import sync
from .._version import __version__
from ..errors import FusionEngineError
from ..output import Table
from .folder import JobFolder

JobSettings = dict[str, Any]


def all_settings(given: Mapping[str, Any], table: Table) -> JobSettings:
    """What was given and what the table is, as it reads back from JSON.

    Raises:
        TypeError, ValueError: something that JSON does not know.
    """
    own = {
        "embedding_dim": table.embedding_dim,
        "channels": table.channels,
        "dtype": table.dtype,
    }
    settings: JobSettings = json.loads(json.dumps({**given, **own}, allow_nan=False))
    return settings


def describe_job(settings: JobSettings, command: str) -> str:
    """What an output says of the job that made it: canonical JSON."""
    job = {"command": command, "settings": settings, "version": __version__}
    return json.dumps(job, sort_keys=True, separators=(",", ":"))


def described(text: str | None) -> JobSettings | None:
    """The settings in what ``describe_job`` gave; ``None`` where it did not."""
    try:
        settings = json.loads(text or "")["settings"]
    except (ValueError, KeyError, TypeError):
        return None
    return settings if isinstance(settings, dict) else None


def differences(got: JobSettings, expected: JobSettings) -> str:
    """What is not equal, by name; empty where everything is."""
    missing = object()
    names = sorted(
        name
        for name in got.keys() | expected.keys()
        if got.get(name, missing) != expected.get(name, missing)
    )
    return "; ".join(f"{n}: got {_value(got, n)}, expected {_value(expected, n)}" for n in names)


def _value(settings: JobSettings, name: str) -> str:
    return short(settings[name]) if name in settings else "nothing"


def hold_settings(folder: JobFolder, settings: JobSettings) -> None:
    """Check that the parts are of a run with equal settings, or begin one.

    Raises:
        FusionEngineError: they are not, or the folder cannot be written.
    """
    if not folder.parts():
        _write(folder.settings, settings)
        return
    before = _read(folder.settings)
    found = differences(settings, before)
    if found:
        raise FusionEngineError(
            f"{folder.path} holds the rows of a run that was stopped, which had other settings "
            f"({found}); give the same ones, or start anew with --fresh"
        )


def _read(path: Path) -> JobSettings:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text = ""
        reason = str(error)
    else:
        reason = "not what was written"
    settings = described(text)
    if settings is None:
        raise FusionEngineError(
            f"cannot read {path}: {reason}; expected the settings of the run whose rows are beside "
            "it; start anew with --fresh"
        )
    return settings


def _write(path: Path, settings: JobSettings) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"settings": settings}, indent=1) + "\n", encoding="utf-8")
        sync(temporary)
    try:
        for folder in (path.parent, path.parent.parent):
            sync(folder)
    except OSError as error:
        raise write_error(path, error) from error
