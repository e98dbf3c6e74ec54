"""Records of probes, made by hand."""

import numpy as np

from fusion_engine.probe.records import ProbeRecord, System
from fusion_engine.probe.result import FoldResult, ProbeResult

CLASSES = ("a", "b", "c", "d")


def system(layers=(3, 6), *, model="cnn14_16k", weights="pretrained", **changes):
    fields = {"weights_sha256": "0" * 64, "precision": "fp32", "head": "mean_max"}
    return System(model=model, layers=layers, weights=weights, **fields | changes)


def record(
    accuracies, *, of=None, task="gtzan", title="GTZAN", clips=200, folds=None, seed=0, **changes
):
    """A record whose probes, one for each of ``accuracies``, got these shares of the clips right.

    Args:
        accuracies: in [0, 1], a seed's each.
        of: the system.
        clips: tested; the first ``clips`` / 2 examples are not.
        folds: sizes; then every example is tested.
    """
    rng = np.random.default_rng(seed)
    untested = 0 if folds else clips // 2
    if folds:
        clips = sum(folds)
    numbers = np.repeat(np.arange(1, len(folds or (1,)) + 1), folds or (clips,))
    targets = rng.integers(0, len(CLASSES), untested + clips)
    predictions = np.full((len(accuracies), len(targets)), -1)
    for row, accuracy in zip(predictions, accuracies, strict=True):
        right = rng.permutation(clips) < round(accuracy * clips)
        row[untested:] = (targets[untested:] + ~right) % len(CLASSES)
    right = (predictions == targets)[:, untested:]
    parts = tuple(
        FoldResult(
            fold=int(number) if folds else None,
            train=untested or clips - int((numbers == number).sum()),
            valid=1,
            test=int((numbers == number).sum()),
            accuracies=tuple(right[:, numbers == number].mean(axis=1).tolist()),
            valid_accuracies=(0.5,) * len(accuracies),
            learning_rates=(1e-3,) * len(accuracies),
            best_epochs=(1,) * len(accuracies),
            epochs=(21,) * len(accuracies),
        )
        for number in np.unique(numbers)
    )
    fields = {
        "task": task,
        "classes": CLASSES,
        "examples": "1" * 64,
        "identity": "",
        "embedding_dim": 4,
        "seeds": tuple(range(len(accuracies))),
        "notes": (),
    }
    result = ProbeResult(
        folds=parts,
        targets=tuple(targets.tolist()),
        predictions=tuple(map(tuple, predictions.tolist())),
        **fields | changes,
    )
    return ProbeRecord(
        system=of or system(),
        title=title,
        folds=tuple(numbers.tolist()) if folds else None,
        result=result,
    )
