"""The rule that chooses M and L, on accuracies made by hand."""

import pytest

from fusion_engine.export import PRESETS, resolve
from fusion_engine.probe.choice import choose_layers

VGGISH = (2, 5, 8, 10, 13, 15, 18, 20, 22)
CNN14 = (1, 2, 3, 4, 5, 6, 7)


def peak(layers, at, height=0.9, slope=0.1):
    """Accuracies that fall off on both sides of a layer."""
    place = layers.index(at)
    return {layer: height - slope * abs(n - place) for n, layer in enumerate(layers)}


@pytest.mark.parametrize("more", [3, 6])
def test_middle_and_late_are_the_best_averages_of_their_groups(more):
    """With more steep tasks on either side, which would decide an average over all tasks."""
    accuracy = {
        "sounds": peak(CNN14, 6),
        "music": peak(CNN14, 7, slope=0.01),
        "speech": peak(CNN14, 3),
        "pitch": peak(CNN14, 2, slope=0.01),
        "voice": peak(CNN14, more),
        "voices": peak(CNN14, more),
    }
    choice = choose_layers(accuracy)
    peaks = {"sounds": 6, "music": 7, "speech": 3, "pitch": 2, "voice": more, "voices": more}
    assert choice.peaks == peaks
    assert choice.late_tasks == tuple(task for task in accuracy if peaks[task] > 4)
    assert (choice.middle, choice.late, choice.layers) == (3, 6, (3, 6))
    assert choice.notes == ()


@pytest.mark.parametrize(
    ("layers", "late_from"), [(CNN14, 5), (VGGISH, 15), (tuple(range(1, 13)), 7), ((3, 6), 6)]
)
def test_late_is_the_upper_half(layers, late_from):
    """The paper's L is in it and its M is not, for all three models."""
    for at in layers:
        choice = choose_layers({"task": peak(layers, at)})
        assert bool(choice.late_tasks) == (at >= late_from)


@pytest.mark.parametrize("model", ["cnn14", "vggish", "ast"])
def test_the_papers_choice_is_on_either_side(model):
    middle, late = PRESETS[f"{model}-fusion"].layers
    layers = tuple(resolve(model).layers)
    choice = choose_layers({"speech": peak(layers, middle), "sounds": peak(layers, late)})
    assert (choice.middle, choice.late) == (middle, late)


@pytest.mark.parametrize(
    ("at", "expected", "word"),
    [(2, (2, 4), "no task peaks late"), (6, (3, 6), "no task peaks early")],
)
def test_tasks_on_one_side_only(at, expected, word):
    layers = (1, 2, 3, 4, 5, 6)
    choice = choose_layers({"a": peak(layers, at), "b": peak(layers, at, slope=0.05)})
    assert (choice.middle, choice.late) == expected
    assert [word in note for note in choice.notes] == [True]


def test_the_earliest_of_equals():
    choice = choose_layers({"a": dict.fromkeys(CNN14, 0.5)})
    assert (choice.peaks["a"], choice.middle) == (1, 1)


def test_one_layer_for_both_groups():
    accuracy = {
        "late": {1: 0.5, 2: 0.9, 3: 0.5, 4: 0.95},
        "late too": {1: 0.5, 2: 0.9, 3: 0.95, 4: 0.5},
        "early": {1: 0.5, 2: 0.9, 3: 0.5, 4: 0.5},
    }
    choice = choose_layers(accuracy)
    assert (choice.late_tasks, choice.layers) == (("late", "late too"), (2,))
    assert "nothing to fuse" in choice.notes[0]


@pytest.mark.parametrize(
    "accuracy", [{}, {"a": {3: 0.5}}, {"a": {1: 0.5, 2: 0.5}, "b": {1: 0.5, 3: 0.5}}]
)
def test_what_is_no_study(accuracy):
    with pytest.raises(ValueError, match="expected"):
        choose_layers(accuracy)
