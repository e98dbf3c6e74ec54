import numpy as np
import pytest

from fusion_engine.frontend import FRONTENDS, Frontend
from fusion_engine.parity import Signal
from fusion_engine.parity.frontend_fp32 import Transform, log_mel_fp32

# Of a bin as loud as its frame, in the unit of the log-mel: 10 units of the last place of FP32 for
# each factor of two in the FFT's length, as a relative error of power.
LOUD = 10 * 9 * np.finfo(np.float32).eps * 10 / np.log(10)


@pytest.mark.parametrize("transform", ["fft", "matrix"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_it_is_the_frontend_in_fp32(name: str, transform: Transform) -> None:
    spec = FRONTENDS[name]
    rate = spec.sample_rate
    noise = Signal(kind="noise", seconds=0.8).samples(rate)
    exact = Frontend(spec)(noise)
    got = log_mel_fp32(noise, spec, transform)
    assert got.dtype == np.float32
    assert got.shape == exact.shape
    assert np.abs(got - exact).max() < LOUD
    # Far below a tone's peak FP32 shows; VGGish's offset of 0.01 and AST's pre-emphasis hide it.
    if spec.log == "db":
        chirp = Signal(kind="chirp", seconds=0.8).samples(rate)
        assert np.abs(log_mel_fp32(chirp, spec, transform) - Frontend(spec)(chirp)).max() > LOUD
