from .isolated import run
from .specs import case


def test_a_short_run():
    outcomes, faults = run(case, count=300, seed=0)
    assert not faults
    assert outcomes["refused"] > 150
    assert outcomes["ran"] > 5
