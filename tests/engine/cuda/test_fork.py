"""An engine on a GPU in a forked process: it says so at once, and leaves the GPU alone."""

import numpy as np
import pytest

import fusion_engine as fe

from ..test_fork import in_child

CLIP = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def test_a_forked_process_has_no_gpu(machine, open_onnx):
    engine = open_onnx("chunked")
    expected = engine.embed(CLIP)
    held = machine.used

    def child():
        for call in (engine.embed, engine.embed_frames, engine.layer_outputs):
            with pytest.raises(fe.BackendError, match=r"before this process was forked.*'spawn'"):
                call(CLIP)
        assert engine.stats.clips >= 1
        assert "closed" in repr(engine)
        engine.close()
        assert machine.used == held > 0

    assert in_child(child) == 0
    assert np.array_equal(engine.embed(CLIP), expected)
    engine.close()
