import json
from dataclasses import replace

import pytest

from fusion_engine import ArtifactError
from fusion_engine.frontend import PRESETS
from fusion_engine.spec import FORMAT_VERSION, LayerSpec, SegmentRule, Spec, WeightsSource

SPEC = Spec(
    model="cnn14_16k",
    layers=(
        LayerSpec(number=3, kind="map", channels=256, freq=8, time_pool=4),
        LayerSpec(number=6, kind="map", channels=2048, freq=2),
    ),
    embedding_dim=6144,
    frontend=PRESETS["panns_16k"],
    frames_per_step=32,
    chunk_margin=128,
    min_frames=32,
    max_frames=6001,
    weights=WeightsSource(source="random:0", sha256="00"),
)


def test_json_round_trip():
    segmented = replace(
        SPEC,
        chunk_margin=None,
        frontend=PRESETS["ast"],
        segment=SegmentRule(frames=1024, last="pad"),
        token="cls_dist_mean",
        layer_norm_eps=1e-12,
    )
    for spec in (SPEC, segmented):
        assert Spec.from_json(spec.to_json()) == spec


def test_json_is_canonical():
    data = json.loads(SPEC.to_json())
    assert SPEC.to_json() == json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert data["format_version"] == FORMAT_VERSION
    assert data["layers"][0] == {
        "number": 3,
        "kind": "map",
        "channels": 256,
        "freq": 8,
        "time_pool": 4,
        "module": None,
    }


def test_frame_rate():
    assert SPEC.frame_rate == 16_000 / 160 / 32
    vector = LayerSpec(number=7, kind="vector", channels=2048)
    clip = replace(
        SPEC, layers=(vector,), embedding_dim=2048, frames_per_step=None, chunk_margin=None
    )
    assert clip.frame_rate is None


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
def test_unknown_format_version_is_refused(version):
    data = json.loads(SPEC.to_json()) | {"format_version": version}
    with pytest.raises(ArtifactError, match=rf"x\.onnx: spec format version {version!r}.*Upgrade"):
        Spec.from_json(json.dumps(data), where="x.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", SPEC.to_json()[:-40]])
def test_damaged_json_is_refused(text):
    with pytest.raises(ArtifactError, match=r"x\.onnx: the spec is damaged"):
        Spec.from_json(text, where="x.onnx")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["model"], 3, r"spec\.model is 3, expected str"),
        (["min_frames"], "32", r"spec\.min_frames is '32', expected int"),
        (["min_frames"], True, r"spec\.min_frames is True, expected int"),
        (["head"], "median", r"spec\.head is 'median', expected one of"),
        (["layers"], {}, r"spec\.layers is \{\}, expected a list"),
        (["layers", 0], 3, r"spec\.layers\[0\] is 3, expected an object"),
        (["layers", 1, "kind"], "cube", r"spec\.layers\[1\]\.kind is 'cube'"),
        (["frontend", "hop_length"], 160.5, r"spec\.frontend\.hop_length is 160\.5"),
        (["frontend", "std"], "x", r"spec\.frontend\.std is 'x', expected float"),
        (["weights"], None, r"spec\.weights is None, expected an object"),
    ],
)
def test_wrong_types_are_refused(path, value, message):
    data = json.loads(SPEC.to_json())
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ArtifactError, match=message):
        Spec.from_json(json.dumps(data))


def test_every_field_is_required_and_no_other_is_taken():
    data = json.loads(SPEC.to_json())
    for name in data:
        if name == "format_version":
            continue
        rest = {key: value for key, value in data.items() if key != name}
        with pytest.raises(ArtifactError, match=rf"lacks \['{name}'\]"):
            Spec.from_json(json.dumps(rest))
    with pytest.raises(ArtifactError, match=r"unknown fields \['colour'\]"):
        Spec.from_json(json.dumps(data | {"colour": "red"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (), "embedding_dim": 0}, "no layer"),
        ({"layers": SPEC.layers * 2, "embedding_dim": 12_288}, "occurs twice"),
        ({"embedding_dim": 4096}, "the layers add up to 6144"),
        ({"min_frames": 0}, "are no range"),
        ({"min_frames": 7000}, "are no range"),
        ({"frames_per_step": None, "chunk_margin": None}, "needs frames_per_step"),
        ({"chunk_margin": 100}, "not a multiple"),
        ({"segment": SegmentRule(frames=9000, last="pad")}, "longer than max_frames"),
        ({"frontend": replace(SPEC.frontend, f_max=9000.0)}, "mel range"),
        ({"frontend": replace(SPEC.frontend, win_length=1024)}, "exceeds n_fft"),
        ({"frontend": replace(SPEC.frontend, log_offset=0.0)}, "log_offset"),
        ({"frontend": replace(SPEC.frontend, hop_length=0)}, "below 1"),
        ({"frontend": replace(SPEC.frontend, std=0.0)}, "std is"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ArtifactError, match=message):
        replace(SPEC, **change)


def test_a_vector_has_no_axes_and_no_chunks():
    with pytest.raises(ArtifactError, match="is a vector"):
        replace(
            SPEC,
            layers=(LayerSpec(number=7, kind="vector", channels=2048, freq=2),),
            embedding_dim=4096,
        )
    with pytest.raises(ArtifactError, match="has no chunk_margin"):
        replace(
            SPEC,
            layers=(LayerSpec(number=7, kind="vector", channels=2048),),
            embedding_dim=2048,
        )


def test_frame_counts_of_the_presets():
    # Centred frames: one more than whole hops. Whole frames only: none before the first window.
    panns, ast = PRESETS["panns_16k"], PRESETS["ast"]
    assert [panns.frames(n) for n in (4959, 4960, 160_000)] == [31, 32, 1001]
    assert [ast.frames(n) for n in (0, 399, 400, 559, 560, 16_000)] == [0, 0, 1, 1, 2, 98]
    for spec in (panns, ast):
        for frames in (1, 32, 98):
            least = spec.samples(frames)
            assert spec.frames(least) == frames
            assert least == 0 or spec.frames(least - 1) == frames - 1
