"""A result on disk with what it is a result of: the file that reports and comparisons read."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from .._atomic import atomic_path
from ..errors import FusionEngineError
from ..spec import HEADS, Head, Spec
from .result import ProbeResult, read_written

FORMAT_VERSION = 1
SUFFIX = ".probe.json"


@dataclass(frozen=True, kw_only=True)
class System:
    """What made the embeddings.

    Attributes:
        model: name of the backbone.
        layers: the layers fused, in order.
        weights: ``pretrained``, ``random:SEED`` or a file's name.
        weights_sha256: of the weights.
        precision: of the backbone's arithmetic.
        head: pooling over time.
        normalized: whether the log-mel was normalised with the task's statistics, which the notes
            of the result say, in place of the model's own.
    """

    model: str
    layers: tuple[int, ...]
    weights: str
    weights_sha256: str
    precision: str
    head: Head
    normalized: bool = False

    @classmethod
    def of(
        cls,
        spec: Spec,
        layers: Sequence[int] | None = None,
        head: Head | None = None,
        *,
        normalized: bool = False,
    ) -> Self:
        """The system of an artifact, or of some of its layers."""
        return cls(
            model=spec.model,
            layers=tuple(layer.number for layer in spec.layers)
            if layers is None
            else tuple(layers),
            weights=spec.weights.source,
            weights_sha256=spec.weights.sha256,
            precision=spec.precision,
            head=head or spec.head,
            normalized=normalized,
        )

    @property
    def name(self) -> str:
        """The preset's, where it is one: ``cnn14-fusion``; else ``cnn14_16k-2-6``."""
        from ..export import PRESETS

        for preset in PRESETS.values():
            if (preset.model, preset.layers) == (self.model, self.layers):
                return preset.name
        return "-".join([self.model, *map(str, self.layers)])

    @property
    def label(self) -> str:
        """The name, with what is not as published: ``cnn14-fusion (random:0, fp16)``."""
        unusual = [
            value
            for value, usual in (
                (self.weights, "pretrained"),
                (self.precision, "fp32"),
                (self.head, HEADS[0]),
            )
            if value != usual
        ]
        unusual += ["task normalization"] if self.normalized else []
        return f"{self.name} ({', '.join(unusual)})" if unusual else self.name


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """A ``ProbeResult`` with what made it.

    Attributes:
        system: what made the embeddings.
        title: the task's, as the data set writes itself.
        folds: the fold of each of the N examples; ``None`` for a task with splits.
        result: what was found.
    """

    system: System
    title: str
    folds: tuple[int, ...] | None
    result: ProbeResult

    @property
    def file_name(self) -> str:
        """Where ``save`` puts it in a folder: ``cnn14-fusion.esc50.probe.json``.

        What is not as published is in the name, so that another system has another file:
        ``cnn14-fusion.random-0.fp16.esc50.probe.json``. Checkpoints are told apart by their
        content: those of two trainings may have one name.
        """
        system, parts = self.system, [self.system.name]
        if system.weights.startswith("random:"):
            parts.append(system.weights.replace(":", "-"))
        elif system.weights != "pretrained":
            parts.append(system.weights_sha256[:8])
        parts += [p for p in (system.precision, system.head) if p not in ("fp32", HEADS[0])]
        parts += ["normalized"] if system.normalized else []
        return ".".join([*parts, self.result.task]) + SUFFIX

    def to_json(self) -> str:
        """JSON; the result is in it as ``ProbeResult.to_json`` writes it."""
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "system": asdict(self.system),
                "title": self.title,
                "folds": self.folds,
                "result": json.loads(self.result.to_json()),
            }
        )

    @classmethod
    def from_json(cls, text: str, *, where: str = "the record") -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            FusionEngineError: not JSON, or not of this format.
        """
        try:
            data = json.loads(text)
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"format version {data['format_version']}, this version reads {FORMAT_VERSION}"
                )
            system = dict(data["system"])
            system["layers"] = tuple(system["layers"])
            return cls(
                system=System(**system),
                title=str(data["title"]),
                folds=None if data["folds"] is None else tuple(data["folds"]),
                result=ProbeResult.from_json(json.dumps(data["result"]), where=where),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FusionEngineError(
                f"{where}: no record of a probe ({type(error).__name__}: {error}), expected what "
                "`fusion-engine probe run` wrote; run it again"
            ) from None

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it into ``folder``, under its ``file_name``.

        Raises:
            FusionEngineError: it cannot be written.
        """
        path = Path(folder) / self.file_name
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read one.

        Raises:
            FusionEngineError: missing, or not of this format.
        """
        return cls.from_json(read_written(path), where=os.fspath(path))


def load_records(paths: Iterable[str | os.PathLike[str]]) -> list[ProbeRecord]:
    """The records in files, and in folders whatever is in them and ends in ``.probe.json``.

    Raises:
        FusionEngineError: a path without a record, or a file that is none.
    """
    records = []
    for path in map(Path, paths):
        files = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise FusionEngineError(
                f"{path}: a folder without a record, expected files that end in {SUFFIX}; write "
                f"them with `fusion-engine probe run ARTIFACT --task NAME -o {path}`"
            )
        records += [ProbeRecord.load(file) for file in files]
    return records
