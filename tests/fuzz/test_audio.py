"""A short run of the audio fuzzer."""

from tests.fuzz.audio import BAD, run


def test_no_mutant_crashes_hangs_raises_or_is_shortened():
    outcomes = run(500, seed=7)
    assert sum(outcomes[name] for name in ("error", "same or longer")) > 400
    assert [name for name in BAD if outcomes[name]] == [], outcomes
