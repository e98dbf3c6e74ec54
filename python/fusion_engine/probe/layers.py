"""The layer-wise study: what each layer of a model is good for, and which two to fuse."""

import csv
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._atomic import atomic_path
from ..errors import ArtifactError
from ..spec import Spec
from .choice import Choice, choose_layers
from .picture import draw_layers
from .prober import Prober
from .records import ProbeRecord
from .tasks import Task

Save = Callable[[ProbeRecord], object]


@dataclass(frozen=True, kw_only=True)
class LayerStudy:
    """Every layer of an artifact on some tasks.

    Attributes:
        spec: the artifact's.
        singles: a record for each task and layer.
        fused: a record for each task with M and L fused; none where they are one layer.
        choice: M and L.
    """

    spec: Spec
    singles: tuple[ProbeRecord, ...]
    fused: tuple[ProbeRecord, ...]
    choice: Choice

    @property
    def accuracy(self) -> Mapping[str, Mapping[int, float]]:
        """For each task the mean accuracy with each layer, in [0, 1]."""
        return _table(self.singles, lambda record: record.result.accuracy)

    @property
    def spread(self) -> Mapping[str, Mapping[int, float]]:
        """For each task the standard deviation over the seeds with each layer."""
        return _table(self.singles, lambda record: record.result.std)

    @property
    def export_command(self) -> str | None:
        """The command that exports M and L; ``None`` for a module of your own."""
        return export_command(self.spec, self.choice.layers)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write ``layers.json``, ``layers.csv``, ``layers.png`` and ``layers.svg``.

        Raises:
            BackendError: matplotlib is not installed.
            FusionEngineError: a file cannot be written.
        """
        folder = Path(folder)
        paths = [folder / f"layers.{suffix}" for suffix in ("json", "csv", "png", "svg")]
        with atomic_path(paths[0]) as temporary:
            temporary.write_text(self._json() + "\n", encoding="utf-8")
        with (
            atomic_path(paths[1]) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["task", "layers", "accuracy", "std"])
            for record in (*self.singles, *self.fused):
                layers = "+".join(map(str, record.system.layers))
                result = record.result
                writer.writerow(
                    [result.task, layers, f"{result.accuracy:.6f}", f"{result.std:.6f}"]
                )
        titles = {record.result.task: record.title for record in self.singles}
        for path in paths[2:]:
            draw_layers(
                path,
                {titles[task]: values for task, values in self.accuracy.items()},
                {titles[task]: values for task, values in self.spread.items()},
                title=f"{self.spec.model}, weights {self.spec.weights.source}",
                marked=(
                    {"M": self.choice.middle, "L": self.choice.late}
                    if len(self.choice.layers) > 1
                    else {"M = L": self.choice.late}
                ),
            )
        return paths

    def _json(self) -> str:
        choice = self.choice
        return json.dumps(
            {
                "model": self.spec.model,
                "weights": self.spec.weights.source,
                "seeds": self.singles[0].result.seeds,
                "tasks": {
                    task: {
                        "title": records[0].title,
                        "peak": choice.peaks[task],
                        "peaks_late": task in choice.late_tasks,
                        "notes": records[0].result.notes,
                        "accuracies": {
                            "+".join(map(str, r.system.layers)): r.result.accuracies
                            for r in records
                        },
                    }
                    for task, records in _by_task((*self.singles, *self.fused)).items()
                },
                "middle": choice.middle,
                "late": choice.late,
                "notes": choice.notes,
                "export_command": self.export_command,
            },
            indent=1,
        )


def study_layers(prober: Prober, tasks: Sequence[Task], *, save: Save | None = None) -> LayerStudy:
    """Probe every layer of an artifact on its own, choose M and L, and probe them fused.

    Args:
        prober: the artifact, with two or more layers.
        tasks: one or more.
        save: called with every record, as soon as it is there.

    Raises:
        ArtifactError: an artifact with a single layer.
        ValueError: no task, or two of one name.
        FusionEngineError: as ``Prober.probe``.
    """
    spec = prober.engine.spec
    numbers = [layer.number for layer in spec.layers]
    if len(numbers) < 2:
        raise ArtifactError(
            f"the artifact holds one layer, {numbers[0]}, and there is nothing to compare it with; "
            "export all layers of the model, or let `fusion-engine probe layers --model NAME` do it"
        )
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"tasks {names}, expected one or more, each once")

    def keep(records: Iterator[ProbeRecord]) -> Iterator[ProbeRecord]:
        for record in records:
            if save is not None:
                save(record)
            yield record

    singles = tuple(
        record for task in tasks for record in keep(prober.probe(task, [[n] for n in numbers]))
    )
    choice = choose_layers(_table(singles, lambda record: record.result.accuracy))
    fused: tuple[ProbeRecord, ...] = ()
    if len(choice.layers) > 1:
        # In the artifact's order, which need not be that of the numbers.
        pair = [number for number in numbers if number in choice.layers]
        fused = tuple(record for task in tasks for record in keep(prober.probe(task, [pair])))
    return LayerStudy(spec=spec, singles=singles, fused=fused, choice=choice)


def export_all_layers(
    model: str,
    folder: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "pretrained",
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model with all of its layers into ``folder``, as ``MODEL-layers.onnx``.

    The same weights give the same file, so what is cached for it stays good.

    Raises:
        ExportError, WeightsError, BackendError, FusionEngineError: as ``export``.
    """
    from ..export import export, resolve

    backbone = resolve(model)
    path = Path(folder) / f"{backbone.name}-layers.onnx"
    export(model, path, layers=list(backbone.layers), weights=weights, progress=progress)
    return path


def export_command(spec: Spec, layers: Sequence[int]) -> str | None:
    """The command that exports some layers of an artifact's model with its weights.

    A checkpoint is named without its folder, which the artifact does not know. ``None`` where it
    was no model of the catalogue.
    """
    from ..export import backbones

    backbone = backbones().get(spec.model)
    if backbone is None or any(layer.module is not None for layer in spec.layers):
        return None
    words = ["fusion-engine export", spec.model, "--layers", *map(str, layers)]
    words += ["--weights", shlex.quote(spec.weights.source)]
    if spec.max_frames != backbone.max_frames:
        words += ["--frames", str(spec.max_frames)]
    if spec.token != backbone.token:
        words += ["--token", str(spec.token)]
    return " ".join([*words, "-o", f"{spec.model}_{'_'.join(map(str, layers))}.onnx"])


def _by_task(records: Sequence[ProbeRecord]) -> dict[str, list[ProbeRecord]]:
    tasks: dict[str, list[ProbeRecord]] = {}
    for record in records:
        tasks.setdefault(record.result.task, []).append(record)
    return tasks


def _table(
    records: Sequence[ProbeRecord], value: Callable[[ProbeRecord], float]
) -> dict[str, dict[int, float]]:
    """By task and layer; the layers in the order of their numbers."""
    return {
        task: {
            layer: value(record)
            for layer, record in sorted(
                ((record.system.layers[0], record) for record in found), key=lambda pair: pair[0]
            )
        }
        for task, found in _by_task(records).items()
    }
