"""What ``embed`` accepts, and what it says to the rest."""

import array

import numpy as np
import pytest
import torch

from fusion_engine.engine.clips import read
from fusion_engine.engine.cuda.arrays import is_on_gpu

RATE = 16_000


def clips(audio):
    return list(read(audio, source_rate=None, sample_rate=RATE).items)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([0.1, 0.2], r"clip 0 is float; .*A list holds whole clips: .*np\.asarray"),
        ((np.float32(0.1),), r"clip 0 is float32; .*A list holds whole clips"),
        ([[0.1, 0.2]], r"clip 0 is list; .*np\.asarray"),
        (range(3), r"clip 0 is int; .*np\.asarray"),
        (b"a.wav", r"audio is bytes, .*a path is a str or pathlib\.Path"),
        (array.array("f", [0.1]), r"audio is array\.array, .*np\.frombuffer"),
        (memoryview(b"1234"), r"audio is memoryview, .*np\.frombuffer"),
        ([np.zeros(9, np.float32), b"a.wav"], r"clip 1 is bytes, "),
        (iter([np.zeros(9, np.float32)]), r"audio is list_iterator; expected an array"),
        ({"a": 1}, r"audio is dict; expected an array"),
        (torch.zeros(9, requires_grad=True), r"audio is a torch\.Tensor .*\.detach\(\)"),
        ([torch.zeros(9, requires_grad=True)], r"clip 0 is a torch\.Tensor .*\.detach\(\)"),
        (torch.zeros(9, device="meta"), r"audio is a torch\.Tensor that NumPy cannot read"),
        (np.ma.masked_equal(np.zeros(9, np.float32), 0), r"9 masked samples"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_audio(audio, message):
    assert not is_on_gpu(audio)
    with pytest.raises(TypeError, match=message):
        clips(audio)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_other_kinds_are_arrays():
    x = np.linspace(-1, 1, 2 * RATE, dtype=np.float32).reshape(2, RATE)
    for same in (x, np.asmatrix(x), np.ma.masked_array(x), torch.from_numpy(x), list(x)):
        got = clips(same)
        assert [item.key for item in got] == ["clip 0", "clip 1"]
        for item, expected in zip(got, x, strict=True):
            assert type(item.audio) is np.ndarray
            np.testing.assert_array_equal(item.audio, expected)
