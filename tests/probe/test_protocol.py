import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from fusion_engine import FusionEngineError, NumericalError
from fusion_engine.errors import DatasetError
from fusion_engine.probe import (
    Example,
    ProbeResult,
    Task,
    evaluate,
    partitions,
    probe,
    protocol,
    train_probes,
)
from fusion_engine.probe.linear import LinearProbe
from fusion_engine.probe.protocol import Scaler

from .test_embeddings import make_task, write_clips

FAST = {"seeds": (0, 1), "learning_rates": (1e-3, 1e-2), "max_epochs": 30, "patience": 5}


def labels(y):
    return [f"c{target}" for target in y]


def split_task(y, splits):
    examples = [
        Example(path=Path(f"/data/{number}.wav"), label=label, split=split)
        for number, (label, split) in enumerate(zip(labels(y), splits, strict=True))
    ]
    return task_of(examples)


def fold_task(y, folds):
    examples = [
        Example(path=Path(f"/data/{number}.wav"), label=label, fold=fold)
        for number, (label, fold) in enumerate(zip(labels(y), folds, strict=True))
    ]
    return task_of(examples)


def task_of(examples):
    classes = tuple(sorted({example.label for example in examples}))
    return Task(name="t", title="T", seconds=1.0, classes=classes, examples=tuple(examples))


@pytest.fixture(scope="module")
def problem(make_problem):
    return make_problem(600, 24, 3, distance=2.0)


@pytest.fixture(scope="module")
def in_splits(problem):
    rng = np.random.default_rng(9)
    return split_task(problem.y, rng.choice(["train", "valid", "test"], 600, p=[0.6, 0.2, 0.2]))


@pytest.fixture(scope="module")
def in_folds(problem):
    return fold_task(problem.y, np.random.default_rng(9).integers(1, 5, 600).tolist())


def test_the_protocol_step_by_step(problem, in_splits):
    """Against the same steps written out with scikit-learn's scaler."""
    got = evaluate(in_splits, problem.x, identity="me", **FAST)
    splits = np.array([example.split for example in in_splits.examples])
    parts = {split: np.flatnonzero(splits == split) for split in ("train", "valid", "test")}
    scaler = StandardScaler().fit(problem.x[parts["train"]].astype(np.float64))
    x = {
        split: scaler.transform(problem.x[part]).astype(np.float32) for split, part in parts.items()
    }
    y = {split: problem.y[part] for split, part in parts.items()}
    trained = train_probes(
        x["train"],
        y["train"],
        x["valid"],
        y["valid"],
        classes=3,
        **FAST,
    )
    (fold,) = got.folds
    assert fold.fold is None
    assert (fold.train, fold.valid, fold.test) == tuple(map(len, parts.values()))
    for place, probes in enumerate(trained):
        scores = [(probes[i].valid_accuracy, -rate) for i, rate in enumerate((1e-3, 1e-2))]
        best = probes[scores.index(max(scores))]
        predicted = best.predict(x["test"])
        assert fold.learning_rates[place] == -max(scores)[1]
        assert fold.valid_accuracies[place] == best.valid_accuracy
        assert (fold.best_epochs[place], fold.epochs[place]) == (best.best_epoch, best.epochs)
        predictions = np.array(got.predictions[place])
        np.testing.assert_array_equal(predictions[parts["test"]], predicted)
        assert set(predictions[splits != "test"].tolist()) == {-1}
        assert got.accuracies[place] == pytest.approx((predicted == y["test"]).mean())
    assert got.targets == tuple(problem.y.tolist())
    assert got.accuracy == pytest.approx(np.mean(got.accuracies))
    assert got.std == pytest.approx(np.std(got.accuracies, ddof=1))
    assert got.correct().mean(axis=1) == pytest.approx(np.array(got.accuracies))
    assert got.correct().shape == (2, fold.test)
    assert (got.task, got.identity, got.embedding_dim) == ("t", "me", 24)


def test_a_seed_does_not_depend_on_the_others(problem, in_splits):
    both = evaluate(in_splits, problem.x, **FAST)
    alone = evaluate(in_splits, problem.x, **FAST | {"seeds": (1,)})
    assert alone.predictions[0] == both.predictions[1]
    assert both.predictions[0] != both.predictions[1]
    assert alone.std == 0.0


def test_standardisation_knows_the_training_set_alone(problem, in_splits):
    """Test and validation examples that are far off move nothing but their own predictions."""
    expected = evaluate(in_splits, problem.x, **FAST)
    splits = np.array([example.split for example in in_splits.examples])
    test = np.flatnonzero(splits == "test")
    far = problem.x.copy()
    far[test[:30]] = far[test[:30]] * 1e3 + 1e4
    got = evaluate(in_splits, far, **FAST)
    for predictions, others in zip(got.predictions, expected.predictions, strict=True):
        np.testing.assert_array_equal(np.array(predictions)[test[30:]], np.array(others)[test[30:]])
    # In validation they do no more than spoil what is chosen by it: the scaler stays.
    scaler = Scaler(problem.x[splits == "train"].copy())
    np.testing.assert_allclose(scaler.train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaler.train.std(axis=0), 1, atol=1e-6)
    assert np.abs(scaler.transform(far[test].copy()).mean(axis=0)).min() > 10


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_scaler_is_that_of_scikit_learn(offset):
    """Columns of any scale, large offsets, and one that is constant: in FP64 sums."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3000, 7)) * np.geomspace(1e-3, 1e3, 7) + offset).astype(np.float32)
    x[:, 3] = 0.1
    other = rng.standard_normal((50, 7)).astype(np.float32)
    expected = StandardScaler().fit(x.astype(np.float64))
    expected.scale_[3] = 1.0
    scaler = Scaler(x.copy())
    np.testing.assert_allclose(
        scaler.train, expected.transform(x.astype(np.float64)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        scaler.transform(other.copy()), expected.transform(other.astype(np.float64)), rtol=1e-5
    )


def test_the_learning_rate_is_chosen_on_validation(problem, in_splits, monkeypatch):
    """Two probes: one always right in validation and wrong in test, the other the reverse."""
    splits = np.array([example.split for example in in_splits.examples])
    test = splits == "test"

    class Fixed(LinearProbe):
        def predict(self, x):
            right = problem.y[test]
            return right if self.valid_accuracy < 0.5 else (right + 1) % 3

    def fixed(accuracy):
        zeros = np.zeros(1, np.float32)
        return Fixed(weight=zeros, bias=zeros, valid_accuracy=accuracy, best_epoch=1, epochs=2)

    for accuracies, rate, expected in (
        ((0.1, 0.9), 1e-2, 0.0),
        ((0.9, 0.1), 1e-3, 0.0),
        ((0.9, 0.9), 1e-3, 0.0),  # of equals the smallest
        ((0.2, 0.3), 1e-2, 1.0),
    ):
        probes = [[fixed(accuracy) for accuracy in accuracies]] * 2
        monkeypatch.setattr(protocol, "train_probes", lambda *a, found=probes, **k: found)
        got = evaluate(in_splits, problem.x, **FAST)
        assert got.folds[0].learning_rates == (rate, rate)
        assert got.accuracy == expected


def test_folds(problem, in_folds):
    got = evaluate(in_folds, problem.x, **FAST)
    folds = np.array([example.fold for example in in_folds.examples])
    assert [fold.fold for fold in got.folds] == [1, 2, 3, 4]
    predictions = np.array(got.predictions)
    assert predictions.min() == 0  # every example is in test once
    for fold in got.folds:
        test = folds == fold.fold
        assert fold.test == test.sum()
        assert fold.train + fold.valid == 600 - fold.test
        right = (predictions[:, test] == problem.y[test]).mean(axis=1)
        assert fold.accuracies == pytest.approx(right)
    # The mean over the folds, which are not of one size, and not over the examples.
    assert len({fold.test for fold in got.folds}) > 1
    means = np.mean([fold.accuracies for fold in got.folds], axis=0)
    assert got.accuracies == pytest.approx(means)
    assert got.accuracy > 0.6


def test_a_fold_is_evaluated_like_a_split(problem, in_folds):
    """The same partition, given as splits, gives the same predictions."""
    got = evaluate(in_folds, problem.x, **FAST)
    part = next(part for part in partitions(in_folds) if part.fold == 3)
    splits = np.full(600, "train", object)
    splits[part.valid], splits[part.test] = "valid", "test"
    expected = evaluate(split_task(problem.y, splits.tolist()), problem.x, **FAST)
    np.testing.assert_array_equal(
        np.array(got.predictions)[:, part.test], np.array(expected.predictions)[:, part.test]
    )


def test_the_hold_out():
    """A tenth of each class, and one at least; never of the test fold; the same every time."""
    sizes = {0: 200, 1: 57, 2: 11, 3: 6}
    y = np.repeat(list(sizes), list(sizes.values()))
    folds = np.arange(len(y)) % 5
    task = fold_task(y, folds.tolist())
    drawn = []
    for part, again in zip(partitions(task), partitions(task), strict=True):
        np.testing.assert_array_equal(part.valid, again.valid)
        assert set(folds[part.test]) == {part.fold}
        assert part.fold not in folds[np.concatenate([part.train, part.valid])]
        everything = np.concatenate([part.train, part.valid, part.test])
        assert sorted(everything.tolist()) == list(range(len(y)))
        for target in sizes:
            rest = (y[folds != part.fold] == target).sum()
            assert (y[part.valid] == target).sum() == max(1, round(rest / 10))
        drawn.append(set(part.valid.tolist()))
    # Drawn, not the first of each class.
    assert len(set.union(*drawn)) > 1.5 * len(drawn[0])
    assert not drawn[0] <= set(range(150))


def test_a_class_without_training_examples_is_an_error():
    y = np.array([0] * 20 + [1] * 20 + [2] * 2)
    with pytest.raises(DatasetError, match="'c2' has no example left to train on outside fold 0"):
        list(partitions(fold_task(y, [number % 2 for number in range(42)])))
    splits = ["train", "valid", "test"] * 13 + ["train", "valid", "test"]
    with pytest.raises(DatasetError, match="'c2' has no example in train"):
        list(partitions(split_task(y, splits)))


def test_a_class_that_cannot_be_learnt_in_a_later_fold_is_refused_first(problem):
    """One example in fold 1 and two in fold 2: outside fold 2 none is left to train on."""
    y = np.array([0] * 20 + [1] * 20 + [2] * 3)
    folds = [1 + number % 2 for number in range(40)] + [2, 2, 1]
    seen = []
    with pytest.raises(DatasetError, match="outside fold 2"):
        evaluate(fold_task(y, folds), problem.x[:43], progress=lambda *at: seen.append(at), **FAST)
    assert seen == []


def test_nothing_is_embedded_that_cannot_be_trained_on(tmp_path):
    task = split_task(np.array([0, 0, 0, 1]), ["train", "valid", "test", "test"])
    with pytest.raises(DatasetError, match="'c1' has no example in train"):
        probe(tmp_path / "not-even-opened.onnx", task)


def test_rows_that_are_not_finite(problem, in_splits):
    x = problem.x.copy()
    x[417, 3] = np.nan
    with pytest.raises(NumericalError, match="embedding of example 417 "):
        evaluate(in_splits, x, **FAST)


@pytest.mark.parametrize(
    "wrong",
    [{"seeds": ()}, {"learning_rates": ()}, {"max_epochs": 0}, {"patience": 0}, {"device": "tpu"}],
    ids=str,
)
def test_wrong_arguments(wrong, problem, in_splits):
    with pytest.raises(ValueError, match="expected"):
        evaluate(in_splits, problem.x, **FAST | wrong)
    with pytest.raises(ValueError, match=r"\[600, D\]"):
        evaluate(in_splits, problem.x[:-1], **FAST)


def test_progress(problem, in_folds):
    seen = []
    evaluate(in_folds, problem.x, progress=lambda *at: seen.append(at), **FAST)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {4 * 30}
    assert seen[-1] == (120, 120)


def test_json(problem, in_folds, tmp_path):
    result = evaluate(in_folds, problem.x, identity="é", **FAST)
    result = replace(result, notes=("said aloud",))
    assert ProbeResult.from_json(result.to_json()) == result
    data = json.loads(result.to_json())
    assert data["accuracy"] == result.accuracy
    assert data["std"] == result.std
    path = tmp_path / "result.json"
    result.save(path)
    assert ProbeResult.load(path) == result
    path.write_text(path.read_text()[:-50])
    with pytest.raises(FusionEngineError, match=r"result\.json: no result of a probe"):
        ProbeResult.load(path)
    with pytest.raises(FusionEngineError, match="cannot be read"):
        ProbeResult.load(tmp_path / "missing.json")
    for key, value in (("format_version", 2), ("folds", None), ("unknown", 1)):
        with pytest.raises(FusionEngineError, match="expected what `fusion-engine probe` wrote"):
            ProbeResult.from_json(json.dumps(data | {key: value}))


def test_the_digest_of_the_examples(in_splits):
    digest = protocol.examples_digest(in_splits)

    def changed(place, **changes):
        examples = list(in_splits.examples)
        examples[place] = replace(examples[place], **changes)
        return protocol.examples_digest(task_of(examples))

    moved = [
        replace(example, path=Path("/elsewhere") / example.path.name)
        for example in in_splits.examples
    ]
    assert protocol.examples_digest(task_of(moved)) == digest
    first = in_splits.examples[0]
    assert changed(0, split="test" if first.split != "test" else "train") != digest
    assert changed(0, label="c1" if first.label != "c1" else "c0") != digest
    assert changed(0, path=Path("/data/new.wav")) != digest


def test_probe_joins_extraction_and_evaluation(cnn14_artifact, tmp_path):
    """Chirps and noise are told apart, from files to accuracy; again from the cache."""
    folder = tmp_path / "set"
    write_clips(folder, 60)
    task = make_task(folder)
    stages = []
    results = [
        probe(
            cnn14_artifact,
            task,
            cache=tmp_path / "cache",
            device="cpu",
            progress=lambda *at: stages.append(at),
            **FAST,
        )
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert results[0].accuracy == 1.0
    assert results[0].embedding_dim == 2048
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == ["embedding", "training"]
    assert stages[0] == ("embedding", 0, 60)


MEMORY = """
import numpy as np
from pathlib import Path
from benchmarks.cases_probe import peak_gib
from fusion_engine.probe import Example, Task, evaluate, probe
from fusion_engine.probe.linear import import_torch

torch = import_torch()
torch.set_num_threads(1)
N, D, C = 6000, 2048, 4
splits = ("train", "train", "train", "valid", "test")
task = Task(
    name="t", title="T", seconds=None, classes=tuple(f"{c}" for c in range(C)),
    examples=tuple(
        Example(path=Path(f"/{i}"), label=f"{i // 5 % C}", split=splits[i % 5]) for i in range(N)
    ),
)
small = np.random.default_rng(0).standard_normal((N, 8), np.float32)
options = dict(seeds=(0, 1), max_epochs=2)
evaluate(task, small, **options)
x = np.random.default_rng(0).standard_normal((N, D), np.float32)
before = peak_gib()
evaluate(task, x, **options)
print((peak_gib() - before) * 2**30 / x.nbytes)
"""


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory():
    """Beyond the embeddings: one copy of them, a few rows in FP64, the logits and the weights."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    embeddings = 4 * 6000 * 2048
    block = 3 * 8 * protocol._BLOCK_ROWS * 2048
    weights = 2 * 7 * 6 * 4 * 4 * 2048
    assert float(done.stdout) < 1 + (block + 2 * weights + 2**24) / embeddings
