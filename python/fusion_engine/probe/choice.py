"""Which two layers to fuse, from the accuracy of every layer on every task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A middle and a late layer.

    Attributes:
        middle: M, the layer with the best average over the tasks that do not peak late.
        late: L, the layer with the best average over the tasks that peak late.
        peaks: each task's best layer.
        late_tasks: the tasks that peak late.
        notes: what was not as the rule foresees, one sentence each.
    """

    middle: int
    late: int
    peaks: Mapping[str, int]
    late_tasks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers to fuse, in order; one where M and L are the same."""
        return tuple(sorted({self.middle, self.late}))


def choose_layers(accuracy: Mapping[str, Mapping[int, float]]) -> Choice:
    """M and L (Niizumi et al. 2022, section III).

    A task peaks late when its best layer is in the upper half of the layers studied. L is the layer
    with the best average over those tasks, M the one with the best average over the others; of
    equals the earliest, which costs least. Where all tasks are on one side, the other side's layer
    is the best of its half of the layers over all tasks.

    Args:
        accuracy: for each task, the accuracy with each layer; the same layers for all.

    Raises:
        ValueError: no task, fewer than two layers, or tasks with different layers.
    """
    if not accuracy:
        raise ValueError("no task, expected the accuracies of one or more")
    layers = sorted(next(iter(accuracy.values())))
    if len(layers) < 2:
        raise ValueError(f"layers {layers}: expected two or more to choose from")
    for task, values in accuracy.items():
        if sorted(values) != layers:
            raise ValueError(f"{task} has layers {sorted(values)}, expected {layers} as the others")
    # With an odd number of layers the one in the centre counts as middle.
    lower, upper = layers[: (len(layers) + 1) // 2], layers[(len(layers) + 1) // 2 :]
    peaks = {task: max(layers, key=values.__getitem__) for task, values in accuracy.items()}
    late = tuple(task for task, peak in peaks.items() if peak in upper)
    rest = tuple(task for task in peaks if task not in late)
    notes = []

    def best(candidates: Sequence[int], tasks: Sequence[str]) -> int:
        return max(candidates, key=lambda layer: sum(accuracy[task][layer] for task in tasks))

    if not rest:
        notes.append(
            "no task peaks early or in the middle: M is the best of the lower half of the "
            "layers over all tasks"
        )
    if not late:
        notes.append(
            "no task peaks late: L is the best of the upper half of the layers over all tasks"
        )
    middle = best(layers, rest) if rest else best(lower, late)
    last = best(layers, late) if late else best(upper, rest)
    if middle == last:
        notes.append(f"layer {middle} is best for both groups of tasks: there is nothing to fuse")
    return Choice(middle=middle, late=last, peaks=peaks, late_tasks=late, notes=tuple(notes))
