from .artifacts import case
from .isolated import run


def test_a_short_run():
    outcomes, faults = run(case, count=300, seed=0)
    assert not [fault for fault in faults if "crash" not in fault]
    assert outcomes["onnx ArtifactError"] > 20
    assert outcomes["plan ArtifactError"] > 20
    assert outcomes["plan read"] > 5
