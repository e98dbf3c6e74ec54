from dataclasses import replace

import librosa
import numpy as np
import pytest

from fusion_engine.frontend.frontend_spec import AST, PANNS_8K, PANNS_16K, PANNS_32K, VGGISH
from fusion_engine.frontend.mel import filter_bank

from . import reference

# FP64 rounding of a weight of at most 1: the position of an edge is good to a few eps of some
# thousand Hz, divided by the width of a triangle.
WEIGHT_TOLERANCE = 1e-12


@pytest.mark.parametrize("spec", [PANNS_8K, PANNS_16K, PANNS_32K], ids=lambda s: s.preset)
@pytest.mark.parametrize("norm", ["slaney", "none"])
def test_slaney_is_librosas(spec, norm):
    expected = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.f_min,
        fmax=spec.f_max,
        norm=None if norm == "none" else norm,
        dtype=np.float64,
    )
    bank = filter_bank(replace(spec, mel_norm=norm))
    assert bank.dtype == np.float64
    np.testing.assert_allclose(bank, expected.T, rtol=0, atol=WEIGHT_TOLERANCE)


@pytest.mark.parametrize("spec", [VGGISH, AST], ids=lambda s: s.preset)
def test_htk_and_kaldi_are_triangles_in_mel(spec):
    bank = filter_bank(spec)
    expected = reference.triangles_in_mel(spec.n_mels, spec.f_min, spec.f_max)
    np.testing.assert_allclose(bank, expected, rtol=0, atol=WEIGHT_TOLERANCE)
    assert not bank[0].any()


def test_htk_in_hz_is_another_bank():
    """librosa's HTK triangles are linear in Hz, VGGish's in mel."""
    in_hz = librosa.filters.mel(
        sr=16_000, n_fft=512, n_mels=64, fmin=125, fmax=7_500, htk=True, norm=None, dtype=np.float64
    )
    assert np.abs(filter_bank(VGGISH) - in_hz.T).max() > 1e-3
