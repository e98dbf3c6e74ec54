"""Every model in every precision as a real plan of tensorrt_rtx."""

import hashlib
import re
import struct
from dataclasses import replace

import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.engine.tensorrt import build, read_plan

pytestmark = pytest.mark.rtx

MODELS = ["cnn14_16k", "cnn14_32k", "vggish", "ast"]
VARIANTS = [
    ("fp32", False),
    ("fp16", False),
    ("fp16", True),
    ("bf16", False),
    ("bf16", True),
]
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# How TensorRT's log writes them; a vectorised axis of C channels by 8 is `C:8`.
LOGGED = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16"}
# [C, T, F] or [C] for log-mel of unknown length, by the paper's tables.
SHAPES = {
    "cnn14_16k": {"layer_3": (256, -1, 8), "layer_6": (2048, -1, 2)},
    "cnn14_32k": {"layer_3": (256, -1, 8), "layer_6": (2048, -1, 2)},
    "vggish": {"layer_10": (256, 24, 16), "layer_15": (512, 12, 8)},
    "ast": {"layer_5": (768,), "layer_12": (768,)},
}
# Of the layers whose length follows the input's.
TIME_POOLS = {"layer_3": 8, "layer_6": 32}
INPUTS = {
    "cnn14_16k": (-1, 1, -1, 64),
    "cnn14_32k": (-1, 1, -1, 64),
    "vggish": (-1, 1, 96, 64),
    "ast": (-1, 1, 98, 128),
}
# Shortest input, 10 s and 60 s as the frontends count frames, or the fixed length.
FRAMES = {
    "cnn14_16k": (32, 1001, 6001),
    "cnn14_32k": (32, 1001, 6001),
    "vggish": (96, 96, 96),
    "ast": (98, 98, 98),
}


# CNN14 at another rate has another frontend, and the same network.
FAST = [
    ("vggish", "fp16", True),
    ("vggish", "bf16", False),
    ("ast", "bf16", False),
]
CASES = [
    pytest.param(
        model,
        *variant,
        marks=() if (model, *variant) in FAST else pytest.mark.slow,
    )
    for model in MODELS[1:]
    for variant in VARIANTS
]
CASES += [("cnn14_16k", "fp16", False)]


@pytest.mark.parametrize(("model", "precision", "linear"), CASES)
def test_a_plan(artifact, tmp_path, engine_log, model, precision, linear):
    source = artifact(model)
    path = tmp_path / "a.plan"
    info = build(source, path, precision=precision, linear_outputs=linear)
    try:
        check_tensors(info.sidecar, model, precision, linear)
        check_engine(engine_log(), model, precision, linear)
        check_bytes(path, info)
    finally:
        path.unlink()
    assert info.spec == replace(read_spec(source), precision=precision, max_frames=FRAMES[model][2])
    static, wide = info.sidecar.profiles
    assert (wide.batch.triple, wide.frames.triple) == ((1, 8, 32), FRAMES[model])
    assert set(static.batch.triple) == {8}
    assert set(static.frames.triple) == {FRAMES[model][1]}
    assert info.sidecar.activation_bytes > 0


def check_tensors(sidecar, model, precision, linear):
    """What was set in the network, and read back from it."""
    log_mel, *outputs = sidecar.tensors
    assert (log_mel.name, log_mel.mode, log_mel.dtype) == ("log_mel", "input", DTYPES[precision])
    assert (log_mel.shape, log_mel.format) == (INPUTS[model], "linear")
    assert {output.name: output.shape[1:] for output in outputs} == SHAPES[model]
    for output in outputs:
        assert (output.mode, output.dtype) == ("output", DTYPES[precision])
        assert output.shape[0] == -1
        nhwc = precision != "fp32" and not linear and len(output.shape) == 4
        assert output.format == ("hwc8" if nhwc else "linear")


def check_engine(said, model, precision, linear):
    """What the builder says of the finished engine: it has no other witness without a GPU.

    The first profile's kernels are for one shape, the second's for all.
    """
    batch, frames = 8, FRAMES[model][1]
    for profile, sizes in (("", (batch, frames)), (" [profile 1]", (-1, -1))):
        shape = [sizes[0], 1, INPUTS[model][2], INPUTS[model][3]]
        if shape[2] == -1:
            shape[2] = sizes[1]
        assert f"log_mel{profile} ({LOGGED[precision]}[{','.join(map(str, shape))}])" in said
        for name, (channels, *rest) in SHAPES[model].items():
            vectorised = ":8" if precision != "fp32" and not linear and rest else ""
            if rest and rest[0] == -1 and not profile:
                rest = [frames // TIME_POOLS[name], rest[1]]
            shape = ",".join(map(str, (sizes[0], f"{channels}{vectorised}", *rest)))
            assert f"{name}{profile} ({LOGGED[precision]}[{shape}])" in said


def check_bytes(path, info):
    """The spec stands in the plan, and the sidecar vouches for every byte."""
    data = path.read_bytes()
    (start,) = (match.start() for match in re.finditer(rb'\{"fusion_engine":', data))
    (length,) = struct.unpack("<Q", data[start - 8 : start])
    assert data[start : start + length].endswith(b"}}")
    assert info.sidecar.sha256 == hashlib.sha256(data).hexdigest()
    assert info.sidecar.bytes == len(data)
    assert read_plan(path) == info
