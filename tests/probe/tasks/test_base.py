from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from fusion_engine.errors import DatasetError
from fusion_engine.probe.tasks import SPLITS, TASKS, Example, Task, task_names


def examples() -> tuple[Example, ...]:
    """A clip of each of two classes in each split."""
    return tuple(
        Example(path=Path(f"{split}-{label}.wav"), label=label, split=split)
        for split in SPLITS
        for label in ("a", "b")
    )


def task(found: tuple[Example, ...], **changes: Any) -> Task:
    settings = {"name": "t", "title": "T", "seconds": 1.0, "classes": ("a", "b"), **changes}
    return Task(examples=found, **settings)


def test_a_task_is_whole_and_frozen() -> None:
    whole = task(examples())
    assert whole.folds == ()
    with pytest.raises(FrozenInstanceError):
        whole.name = "other"  # type: ignore[misc]


def test_folds_are_sorted() -> None:
    found = tuple(
        Example(path=Path(f"{fold}{label}"), label=label, fold=fold)
        for fold in (10, 2, 1)
        for label in ("a", "b")
    )
    assert task(found).folds == (1, 2, 10)


@pytest.mark.parametrize(
    ("found", "changes", "expected"),
    [
        ((), {}, "no example, expected labelled audio files"),
        (examples(), {"seconds": 0.0}, "clips of 0.0 s, expected a length above 0"),
        (examples(), {"seconds": float("nan")}, "clips of nan s"),
        (examples(), {"classes": ("b", "a")}, "the classes are 'b', 'a', expected two or more"),
        (examples(), {"classes": ("a",)}, "the classes are 'a', expected two or more"),
        (examples(), {"classes": ("a", "c")}, "examples of 'b', which is no class of it"),
        (examples(), {"classes": ("a", "b", "c")}, "no example of 'c'"),
        (examples()[:4], {}, "no example in test, expected train, valid and test"),
        (examples() + examples()[:1], {}, "train-a.wav is there 2 times"),
        (
            (*examples(), Example(path=Path("x"), label="a")),
            {},
            "x has split None and fold None, expected exactly one",
        ),
        (
            (*examples(), Example(path=Path("x"), label="a", split="test", fold=1)),
            {},
            "x has split test and fold 1, expected exactly one",
        ),
        (
            (*examples(), Example(path=Path("x"), label="a", fold=1)),
            {},
            "some examples have a split and others a fold",
        ),
        (
            tuple(Example(path=Path(x), label=x, fold=3) for x in "ab"),
            {},
            "every example is in fold 3, expected two folds or more",
        ),
    ],
)
def test_what_is_no_task(
    found: tuple[Example, ...], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        task(found, **changes)
    assert expected in str(caught.value)


def test_the_registry_says_what_a_user_must_know() -> None:
    for name, info in TASKS.items():
        assert name == info.name
        assert task_names(name) == (name,)
        assert info.protocol
        assert info.size
        assert "──" in info.layout
    assert [TASKS[name].classes for name in list(TASKS)[:9]] == [
        50, 10, 35, 1251, 6, 6, 10, 11, 88,
    ]  # fmt: skip
