"""Artifacts by the name of a preset or a model, exported once into the user's cache."""

import difflib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._cache import cached_path, making
from ._version import __version__
from .artifact import read_report, report_path
from .errors import ArtifactError, BackendError, ExportError, WeightsError
from .spec import FORMAT_VERSION

if TYPE_CHECKING:
    from .parity import Certificate, Signal

logger = logging.getLogger(__name__)

StepProgress = Callable[[str], None]

# Calls of `progress` for one export with its certificate.
EXPORT_STEPS = 8


def named_artifact(
    name_or_path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "pretrained",
    progress: StepProgress | None = None,
) -> Path:
    """The artifact that a preset's or a model's name stands for, or the path as it is.

    The first use of a name exports the preset, or the model with its default layers, certifies it
    against PyTorch on two short signals, and keeps it in the ``artifacts`` folder of the user's
    cache: under a key of the model, its layers, the weights and this package's version. Later uses
    need neither torch nor the network. Several processes and threads may ask at once: one exports,
    the others wait for it. A damaged artifact is exported again.

    Args:
        name_or_path: a name, see ``is_name``, or a path, which is returned unread.
        weights: what a name is exported with: ``pretrained``, ``random:SEED`` or the path of a
            checkpoint.
        progress: called with a few words at the start of each of the ``EXPORT_STEPS`` steps of an
            export; never, where the artifact is in the cache.

    Raises:
        ArtifactError: an unknown name; the message lists those that exist.
        BackendError: torch is missing for the export, or the cache cannot be used.
        ExportError: weights that do not fit, or an export that failed a check.
        WeightsError: a download that failed.
        FusionEngineError: the artifact cannot be written.
    """
    if not is_name(name_or_path):
        return Path(name_or_path)
    wanted = _wanted(os.fspath(name_or_path), weights)
    path = wanted.path()
    if _certified(path):
        return path
    otherwise = "artifacts, or write one elsewhere with `fusion-engine export`"
    with making(path, f"export of {path.name}", otherwise=otherwise):
        # Another process may have made it meanwhile.
        if not _certified(path):
            _make(wanted, path, progress or (lambda text: None))
    return path


def is_name(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether ``named_artifact`` looks it up: a word without a suffix, and not there as a file.

    A file wins over a preset or a model of the same name, and a folder does not: no artifact is
    one. The string ``./cnn14`` is always a path; a ``Path`` forgets the dot.
    """
    path = Path(name_or_path)
    if path.suffix or os.fspath(name_or_path) != path.name:
        return False
    # That of pathlib raises for a name too long for a file.
    if not os.path.exists(path):  # noqa: PTH110
        return True
    return path.is_dir() and path.name in _known()


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """An export: what was asked for by which name."""

    name: str
    model: str
    layers: tuple[int, ...]
    weights: str | os.PathLike[str]
    # All that says which weights they are.
    origin: dict[str, Any]

    def path(self) -> Path:
        """Where the cache keeps it. Names that mean the same share one file."""
        key = {
            "model": self.model,
            "layers": self.layers,
            "weights": self.origin,
            "fusion_engine": __version__,
            "format": FORMAT_VERSION,
        }
        stem = "_".join([self.model, *map(str, self.layers)])
        return cached_path("artifacts", stem, ".onnx", key)


def _known() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Model and layers by every name."""
    from .export import PRESETS, backbones

    presets = {name: (preset.model, preset.layers) for name, preset in PRESETS.items()}
    models = {name: (model.name, model.default_layers) for name, model in backbones().items()}
    return presets | models


def _wanted(name: str, weights: str | os.PathLike[str]) -> _Wanted:
    """What ``name`` stands for.

    Raises:
        ArtifactError: nothing.
        ExportError: there are no such weights.
    """
    known = _known()
    if name not in known:
        closest = difflib.get_close_matches(name.lower(), known, n=len(known), cutoff=0.0)
        raise ArtifactError(
            f"{name}: no such file, and no preset or model is called so. Expected the path of an "
            f".onnx or .plan file, or one of the names, the closest first: {', '.join(closest)}"
        )
    model, layers = known[name]
    origin = _origin(model, weights)
    return _Wanted(name=name, model=model, layers=layers, weights=weights, origin=origin)


def _origin(model: str, weights: str | os.PathLike[str]) -> dict[str, Any]:
    from .export import resolve
    from .export.checkpoint.folders import file_in
    from .export.checkpoint.source import open_regular
    from .weights import WEIGHTS

    text = os.fspath(weights)
    if text == "pretrained":
        # A release's files do not change, those without a published checksum included.
        return asdict(WEIGHTS[model])
    if text.startswith("random:"):
        return {"seed": text}  # the export refuses what is no seed
    path = Path(text)
    # The name too: the artifact's spec says where its weights came from.
    name = path.resolve().name if path.is_dir() else path.name
    if path.is_dir():
        path = file_in(path, resolve(model).folder_config)
    with open_regular(path) as file:
        return {"file": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _certified(path: Path) -> bool:
    """Whether the artifact is there, whole, and with a certificate that it passed."""
    if not path.exists():
        return False
    match read_report(path):
        case {"parity": {"fp32": {"passed": True}}}:
            logger.info("using the cached artifact %s", path)
            return True
    logger.warning("%s is damaged, or was not certified: it is exported again", path)
    return False


def _make(wanted: _Wanted, path: Path, progress: StepProgress) -> None:
    """Export and certify ``path``, of which nothing is left if either fails."""
    from .export import export

    started = time.perf_counter()
    logger.info("exporting %s into %s", wanted.name, path)
    try:
        export(wanted.model, path, layers=wanted.layers, weights=wanted.weights, progress=progress)
        _certify(wanted, path, progress)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. To try things out, `--weights random:0` needs no download. It is an option "
            f"of `fusion-engine embed {wanted.name}` and of `fusion-engine export`"
        ) from error
    except BackendError as error:
        raise BackendError(f"{wanted.name} is not in the cache yet: {error}") from error
    logger.info("the export of %s took %.1f s", wanted.name, time.perf_counter() - started)


def _certify(wanted: _Wanted, path: Path, progress: StepProgress) -> None:
    """Keep a certificate beside the artifact, or delete the artifact.

    Raises:
        ExportError: it failed.
    """
    from .parity import certify
    from .parity.record import record

    try:
        certificate = certify(
            path, weights=wanted.weights, signals=_signals(), device="cpu", progress=progress
        )
        if not certificate:
            raise ExportError(
                f"the export of {wanted.name} failed its certificate and was deleted: "
                + "; ".join(_reasons(certificate))
            )
        record(certificate, path)
    except BaseException:
        path.unlink(missing_ok=True)
        report_path(path).unlink(missing_ok=True)
        raise


def _signals() -> tuple["Signal", ...]:
    """Shorter than the shortest input, and longer than two segments of VGGish."""
    from .parity import Signal

    return Signal(kind="noise", seconds=0.05), Signal(kind="speech", seconds=2.5)


def _reasons(certificate: "Certificate") -> list[str]:
    return [
        *certificate.problems,
        *(
            f"{failure.output} ({failure.input}) is off by {failure.artifact.error:.1e} of its "
            f"largest value, at most {failure.required_error:.1e} is allowed"
            for failure in certificate.failures
        ),
    ]
