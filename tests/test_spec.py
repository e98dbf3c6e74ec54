import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from fusion_engine import ArtifactError
from fusion_engine.frontend import FRONTENDS, Frontend, FrontendSpec
from fusion_engine.spec import (
    _LATER as LATER,
)
from fusion_engine.spec import (
    FORMAT_VERSION,
    LayerSpec,
    Quantization,
    SegmentRule,
    Spec,
    WeightsSource,
)

SPEC = Spec(
    model="cnn14_16k",
    layers=(
        LayerSpec(number=3, kind="map", channels=256, freq=8, time_pool=4),
        LayerSpec(number=6, kind="map", channels=2048, freq=2),
    ),
    embedding_dim=6144,
    frontend=FRONTENDS["panns_16k"],
    frames_per_step=32,
    chunk_margin=128,
    min_frames=32,
    max_frames=6001,
    weights=WeightsSource(source="random:0", sha256="0" * 64),
)
QUANTIZATION = Quantization(method="entropy", clips=3, sha256="1" * 64, peaks=(1.5, 20.0))


def test_json_round_trip():
    segmented = replace(
        SPEC,
        chunk_margin=None,
        frontend=FRONTENDS["ast"],
        segment=SegmentRule(frames=1024, last="pad"),
        min_frames=1024,
        max_frames=1024,
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
        if name in ("format_version", *LATER):
            continue
        rest = {key: value for key, value in data.items() if key != name}
        with pytest.raises(ArtifactError, match=rf"lacks \['{name}'\]"):
            Spec.from_json(json.dumps(rest))
    with pytest.raises(ArtifactError, match=r"unknown fields \['colour'\]"):
        Spec.from_json(json.dumps(data | {"colour": "red"}))


def test_artifacts_from_before_a_field_came_mean_its_default():
    data = json.loads(SPEC.to_json())
    for name in LATER:
        del data[name]
    assert Spec.from_json(json.dumps(data)) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "precision is int8 and quantization is None"),
        ({"quantization": QUANTIZATION}, "precision is fp32 and quantization is"),
        ({"clips": 0}, r"quantization\.clips is 0, expected at least 1"),
        ({"sha256": "0"}, r"quantization\.sha256 is '0'"),
        ({"peaks": (1.0,)}, r"quantization\.peaks is \(1\.0,\), expected one from 0 on"),
        ({"peaks": (1.0, -1.0)}, r"quantization\.peaks is"),
        ({"peaks": (1.0, 1e30)}, r"quantization\.peaks is"),
    ],
)
def test_what_says_how_8_bits_were_made(change, message):
    eight_bits = {"precision": "int8", "quantization": QUANTIZATION}
    assert Spec.from_json(replace(SPEC, **eight_bits).to_json()).quantization == QUANTIZATION
    inner = {name: value for name, value in change.items() if hasattr(QUANTIZATION, name)}
    if inner:
        change = eight_bits | {"quantization": replace(QUANTIZATION, **inner)}
    with pytest.raises(ArtifactError, match=message):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (), "embedding_dim": 0}, "0 layers, expected 1 to 32"),
        ({"layers": SPEC.layers * 2, "embedding_dim": 12_288}, "occurs twice"),
        ({"embedding_dim": 4096}, "the layers add up to 6144"),
        ({"min_frames": 0}, "min_frames is 0, expected 1 to"),
        ({"min_frames": 7000}, "are no range"),
        ({"frames_per_step": None, "chunk_margin": None}, "needs frames_per_step"),
        ({"chunk_margin": 100}, "not a multiple"),
        ({"segment": SegmentRule(frames=9000, last="pad")}, "a segment has 9000 frames, and"),
        (
            {"segment": SegmentRule(frames=32, last="pad"), "max_frames": 32},
            "segments cut a clip, and there is a chunk_margin",
        ),
        ({"frames_per_step": 64}, "frames_per_step is 64, and the shortest input has 32 frames"),
        ({"frontend": replace(SPEC.frontend, f_max=9000.0)}, "mel range"),
        ({"frontend": replace(SPEC.frontend, win_length=1024)}, "exceeds n_fft"),
        ({"frontend": replace(SPEC.frontend, log_offset=0.0)}, "log_offset"),
        ({"frontend": replace(SPEC.frontend, hop_length=0)}, "hop_length is 0, expected 1"),
        ({"frontend": replace(SPEC.frontend, std=0.0)}, "std is"),
        ({"frontend": replace(SPEC.frontend, n_fft=1023)}, "n_fft is 1023, expected an even"),
        ({"frontend": replace(SPEC.frontend, hop_length=1)}, "at least n_fft / 256"),
        ({"frontend": replace(SPEC.frontend, f_min=7999.5)}, r"mel range 7999\.5…8000\.0 Hz"),
        (
            {
                "masked": True,
                "layers": (LayerSpec(number=7, kind="vector", channels=2048),),
                "embedding_dim": 2048,
            },
            "masked is True, and a layer is a vector",
        ),
        (
            {
                "masked": True,
                "segment": SegmentRule(frames=96, last="drop"),
                "chunk_margin": None,
                "min_frames": 96,
                "max_frames": 96,
            },
            "masked is True, of a model whose inputs have one length",
        ),
        ({"weights": WeightsSource(source="x", sha256="z" * 64)}, "expected 64 hexadecimal"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ArtifactError, match=message):
        replace(SPEC, **change)


# Numbers that would divide by zero, overflow, or ask for memory without end.
@pytest.mark.parametrize(
    ("path", "values"),
    [
        (["segment", "frames"], [-96, -1, 0, 2**40]),
        (["frames_per_step"], [-1, 0, 2**40]),
        (["chunk_margin"], [-32, 2**40]),
        (["min_frames"], [-1, 0, 2**26]),
        (["max_frames"], [-1, 0, 2**40]),
        (["embedding_dim"], [-1, 0, 2**40]),
        (["layer_norm_eps"], [-1e-12, 0, 2, 1e300]),
        (["layers", 0, "number"], [-1, 0, 2**40]),
        (["layers", 0, "channels"], [-256, 0, 2**40]),
        (["layers", 0, "freq"], [-8, 0, 2**40]),
        (["layers", 0, "time_pool"], [-4, 0, 2**40]),
        (["frontend", "sample_rate"], [-1, 0, 999, 2**40]),
        (["frontend", "win_length"], [-1, 0, 1, 2**40]),
        (["frontend", "n_fft"], [-1, 0, 1, 2**40]),
        (["frontend", "hop_length"], [-1, 0, 2**40]),
        (["frontend", "n_mels"], [-1, 0, 2**40]),
        (["frontend", "preemphasis"], [-0.5, 1.5, 1e300]),
        (["frontend", "f_min"], [-1, 8000, 1e300]),
        (["frontend", "f_max"], [-1, 0, 50, 1e300]),
        (["frontend", "log_offset"], [-1, 0, 1e-320, 1e300]),
        (["frontend", "mean"], [-1e300, 1e300]),
        (["frontend", "std"], [-1, 0, 1e-300, 1e300]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value[0], str) else "",
)
def test_numbers_out_of_range_are_refused(path, values):
    """Whatever else holds: no value of a field is taken that its type alone allows."""
    spec = SPEC
    if path[0] == "segment":
        segment = SegmentRule(frames=96, last="pad")
        spec = replace(SPEC, chunk_margin=None, segment=segment, min_frames=96, max_frames=96)
    for value in [*values, 2**53, -(2**53), 10**400, -(10**400)]:
        with pytest.raises(ArtifactError, match=rf"x\.onnx: .*({path[-1]}|mel range)") as error:
            Spec.from_json(edited(spec, path, value), where="x.onnx")
        assert len(str(error.value)) < 600


def edited(spec, path, value):
    data = json.loads(spec.to_json())
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(data)


FIELDS = [
    *((name,) for name in ("format_version", "embedding_dim", "frames_per_step", "max_frames")),
    ("frontend", "f_max"),
    ("frontend", "log_offset"),
    ("layers", 1, "channels"),
]


@pytest.mark.parametrize("path", FIELDS, ids=str)
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000, "true"])
def test_what_is_no_number(path, text):
    """Python's reader takes all of these, and turns two into an error of its own."""
    marked = edited(SPEC, path, "MARK").replace('"MARK"', text)
    reason = "(is|version) True" if text == "true" else r"the spec is damaged \(not JSON"
    with pytest.raises(ArtifactError, match=rf"x\.onnx: .*{reason}"):
        Spec.from_json(marked, where="x.onnx")


def test_lengths_that_would_pad_without_end():
    front = replace(SPEC.frontend, hop_length=2**16)
    with pytest.raises(ArtifactError, match="padded to more than 256 MiB"):
        replace(SPEC, frontend=front, min_frames=4096)
    with pytest.raises(ArtifactError, match="padded to more than 256 MiB"):
        replace(SPEC, min_frames=2**22, max_frames=2**22)


@pytest.mark.parametrize("field", ["model", "producer", "producer_version"])
@pytest.mark.parametrize("text", ["x" * 10**5, "a\x1b[31mb", "a\nb"])
def test_texts_that_no_terminal_should_see(field, text):
    with pytest.raises(ArtifactError, match=f"the spec is wrong: {field} ") as error:
        replace(SPEC, **{field: text})
    assert len(str(error.value)) < 200
    assert str(error.value).isprintable()


def test_hostile_json_is_refused_in_bounded_time_and_words():
    good = SPEC.to_json()
    layer = json.dumps(json.loads(good)["layers"][0])
    for text in (
        "[" * 500_000,
        '{"a":' * 150_000,
        f"[{layer},{layer}".ljust(2_000_000),
        good.replace('"layers":[', '"layers":[' + f"{layer}," * 6_000),
        good.replace('"layers":[', '"layers":[' + f"{layer}," * 1_000_000),
        good.replace('"layers":[', '"layers":[' + "{}," * 300_000),
        good.replace('"head":"mean_max"', '"head":' + "[" * 900 + "]" * 900),
        good.replace('"head":"mean_max"', '"head":"' + "x" * 900_000 + '"'),
        good.replace("{", '{"' + "y" * 900_000 + '":0,', 1),
        good.replace("{", "{" + "".join(f'"z{i}":0,' for i in range(80_000)), 1),
    ):
        with pytest.raises(ArtifactError, match=r"^x\.onnx: ") as error:
            Spec.from_json(text, where="x.onnx")
        assert len(str(error.value)) < 600


def test_a_field_given_twice_is_refused():
    """Two readers could take two different values."""
    text = SPEC.to_json().replace('"min_frames":32', '"min_frames":32,"min_frames":64')
    with pytest.raises(ArtifactError, match="'min_frames' is there twice"):
        Spec.from_json(text)


def test_memory_that_runs_out_is_no_damage(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(json, "loads", fail)
    with pytest.raises(MemoryError):
        Spec.from_json(SPEC.to_json())


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


@pytest.mark.parametrize("preset", list(FRONTENDS.values()), ids=list(FRONTENDS))
def test_the_fewest_frames_are_enough_for_the_frontend(preset):
    front = replace(preset, padding="reflect")
    for spec in (preset, front, replace(front, hop_length=1000), replace(front, hop_length=257)):
        frames = spec.least_frames
        samples = spec.samples(frames)
        assert Frontend(spec)(np.zeros(samples, np.float32)).shape[0] == frames
        if frames > 1:
            with pytest.raises(ValueError, match="at least"):
                Frontend(spec)(np.zeros(spec.samples(frames - 1), np.float32))


def test_frame_counts_of_the_presets():
    # Centred frames: one more than whole hops. Whole frames only: none before the first window.
    panns, ast = FRONTENDS["panns_16k"], FRONTENDS["ast"]
    assert [panns.frames(n) for n in (4959, 4960, 160_000)] == [31, 32, 1001]
    assert [ast.frames(n) for n in (0, 399, 400, 559, 560, 16_000)] == [0, 0, 1, 1, 2, 98]
    for spec in (panns, ast):
        for frames in (1, 32, 98):
            least = spec.samples(frames)
            assert spec.frames(least) == frames
            assert least == 0 or spec.frames(least - 1) == frames - 1


def test_the_space_is_of_what_an_embedding_means():
    """Only what may not be compared has another space; a change of it would orphan all tables."""
    assert SPEC.space == "f7ebbf880f55d9b7"
    other = FrontendSpec(**asdict(SPEC.frontend) | {"mean": 1.0, "std": 2.0})
    for change in (
        {"head": "max"},
        {"frontend": other},
        {"weights": WeightsSource(source=SPEC.weights.source, sha256="1" * 64)},
        {"layers": SPEC.layers[::-1]},
        {"segment": SegmentRule(frames=960, last="pad")}
        | {"min_frames": 960, "max_frames": 960, "chunk_margin": None},
    ):
        assert replace(SPEC, **change).space != SPEC.space, change
    for change in (
        {"precision": "fp16"},
        {"max_frames": 5000},
        {"min_frames": 64},
        {"chunk_margin": 256},
        {"producer_version": "9"},
        {"weights": WeightsSource(source="a.pth", sha256=SPEC.weights.sha256)},
        {"frontend": replace(SPEC.frontend, preset="own")},
    ):
        assert replace(SPEC, **change).space == SPEC.space, change
