"""The spec as a network's name: a round trip, whatever the spec."""

import json
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import ArtifactError
from fusion_engine.engine.network_input import LOG_MEL, NetworkInput
from fusion_engine.engine.tensorrt.network_name import decode_name, encode_name
from fusion_engine.engine.tensorrt.plan_file import find_name
from fusion_engine.frontend.frontend_spec import FRONTENDS
from fusion_engine.spec import LayerSpec, Spec, WeightsSource

# Half of a surrogate pair and control characters are in no name.
TEXT = st.characters(exclude_categories=("Cs", "Cc"))
LAYERS = st.lists(
    st.builds(
        LayerSpec,
        number=st.integers(1, 10**6),
        kind=st.just("map"),
        channels=st.integers(1, 4096),
        freq=st.integers(1, 128),
        time_pool=st.integers(1, 64),
        module=st.none() | st.text(TEXT, max_size=20),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda layer: layer.number,
)


@st.composite
def frontends(draw):
    spec = draw(st.sampled_from(list(FRONTENDS.values())))
    changes = {
        "preset": st.sampled_from(list(FRONTENDS)) | st.text(TEXT, max_size=10),
        "mean": st.floats(-100, 100),
        "std": st.none() | st.floats(0.01, 100),
        "f_min": st.floats(0, 200),
        "log_offset": st.floats(1e-12, 1),
        "window": st.sampled_from(["hann", "hann_symmetric"]),
        "remove_dc": st.booleans(),
    }
    names = draw(st.sets(st.sampled_from(list(changes))))
    return replace(spec, **{name: draw(changes[name]) for name in sorted(names)})


@st.composite
def specs(draw):
    layers = tuple(draw(LAYERS))
    shortest = draw(st.integers(1, 100))
    return Spec(
        model=draw(st.text(TEXT, min_size=1, max_size=40)),
        layers=layers,
        embedding_dim=sum(layer.dim for layer in layers),
        frontend=draw(frontends()),
        frames_per_step=draw(st.integers(1, min(shortest, 64))),
        min_frames=shortest,
        max_frames=draw(st.integers(shortest, 10**6)),
        precision=draw(st.sampled_from(["fp32", "tf32", "fp16", "bf16"])),
        weights=WeightsSource(source=draw(st.text(TEXT, max_size=40)), sha256="0" * 64),
    )


def affine(n_mels):
    return NetworkInput.of("float16", *np.linspace(-2, 2, 2 * n_mels).reshape(2, n_mels))


@given(specs(), st.booleans(), st.binary(max_size=100), st.binary(max_size=100), st.booleans())
def test_a_round_trip_through_a_plan_s_bytes(spec, more, before, after, counted):
    """Also where the length in front is not the one that was seen."""
    network_input = affine(spec.frontend.n_mels) if more else LOG_MEL
    name = encode_name(spec, network_input)
    data = name.encode("utf-8")
    assert len(name) == len(data) <= 4000
    length = len(data) if counted else 0
    found = find_name(before + struct.pack("<Q", length) + data + after)
    assert found == name
    assert decode_name(found, where="a.plan") == (spec, network_input)


def spec(**changes):
    layer = LayerSpec(number=3, kind="map", channels=256, freq=8, time_pool=4)
    fields = {
        "model": "cnn14_16k",
        "layers": (layer,),
        "embedding_dim": 2048,
        "frontend": FRONTENDS["panns_16k"],
        "frames_per_step": 32,
        "min_frames": 32,
        "max_frames": 6001,
        "weights": WeightsSource(source="random:0", sha256="0" * 64),
    }
    return Spec(**(fields | changes))


def test_the_form():
    name = encode_name(spec(frontend=replace(FRONTENDS["panns_16k"], mean=1.5)))
    assert name.startswith('{"fusion_engine":{')
    data = json.loads(name)
    assert list(data) == ["fusion_engine"]
    assert name == json.dumps(data, sort_keys=True, separators=(",", ":"))
    front = data["fusion_engine"]["frontend"]
    assert (front["preset"], front["overrides"]) == ("panns_16k", {"mean": 1.5})
    assert len(front["sha256"]) == 64


def test_a_zero_with_a_sign_is_kept():
    """It equals the preset's zero, and has another SHA-256."""
    signed = spec(frontend=replace(FRONTENDS["panns_16k"], mean=-0.0))
    assert decode_name(encode_name(signed), where="a.plan") == (signed, LOG_MEL)


def test_too_many_layers():
    layers = tuple(
        LayerSpec(number=n, kind="map", channels=8, module=f"encoder.layers.{n}.self_attn.output")
        for n in range(1, 33)
    )
    with pytest.raises(ArtifactError, match=r"a plan holds 4000: export fewer layers than 32"):
        encode_name(spec(layers=layers, embedding_dim=8 * 32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda name: "Unnamed Network 0", "not built by fusion_engine"),
        (lambda name: name[:-1], "is damaged"),
        (lambda name: name.replace('"frontend"', '"fr0ntend"'), "is damaged (KeyError('frontend'"),
        (lambda name: name.replace('"panns_16k"', '"panns_32k"'), "has other settings in this"),
        (lambda name: name.replace('"panns_16k"', '"panns_64k"'), "lacks ['sample_rate'"),
        (lambda name: name.replace('"max_frames":6001', '"max_frames":6'), "are no range"),
        (lambda name: name.replace('"format_version":1', '"format_version":9'), "version 9"),
        (lambda name: '{"fusion_engine":{"format_version":2,"front":3}}', "format version 2, this"),
        (lambda name: '{"fusion_engine":{"format_version":1,"frontend":3}}', "is damaged (Type"),
        (lambda name: '{"fusion_engine":3}', "is damaged (TypeError"),
        (lambda name: f'{name[:-1]},"input":{{"dtype":"float16"}}}}', "input lacks ['affine']"),
        (lambda name: name[:-1] + f',"input":{json.dumps(asdict(affine(32)))}}}', "2 × 64 finite"),
    ],
)
def test_what_is_refused(damage, message):
    with pytest.raises(ArtifactError) as error:
        decode_name(damage(encode_name(spec())), where="a.plan")
    assert str(error.value).startswith("a.plan: ")
    assert message in str(error.value)
