"""``fusion-engine embed`` with a real artifact."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

import fusion_engine as fe
from fusion_engine.cli import _artifact
from fusion_engine.spec import Spec

from .. import signals
from .conftest import RATE, write_clip
from .tables import DIM, SUFFIXES, failures, flags, names, read, said
from .test_main import examples

pytestmark = pytest.mark.usefixtures("_here")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_and_folders_in_order(cli, artifact, engine, suffix):
    """Bit-equal to each file embedded alone, whatever its length, rate and neighbours."""
    inside = ["b.wav", "B/x.wav", "a b.wav", "a/z.wav", "a/Ü.wav", ".hidden.wav", "notes.txt"]
    for seed, name in enumerate(inside):
        write_clip(Path("in") / name, seed, seconds=0.2 + seed / 3, rate=(8_000, 44_100)[seed % 2])
    write_clip(Path("first.wav"), 90)
    Path("in/notes.txt").write_text("no audio")
    result = cli("embed", artifact, "first.wav", "in", "first.wav", "-o", f"out{suffix}")
    assert (result.status, result.stdout) == (0, "")
    assert said(result) == [
        f"out{suffix}: 6 embeddings of {DIM} from 6 files",
        "given more than once, embedded once: 1 file (first: first.wav)",
        "left out of in/: 1 .txt",
    ]
    paths, durations, rows = read(f"out{suffix}")
    expected = ["B/x.wav", "a/z.wav", "a/Ü.wav", "a b.wav", "b.wav"]
    assert paths == ["first.wav", *(f"in/{name}" for name in expected)]
    for path, duration, row in zip(paths, durations, rows, strict=True):
        np.testing.assert_array_equal(row, engine.embed(path))
        seconds = 1.0 if path == "first.wav" else 0.2 + inside.index(path[3:]) / 3
        assert duration == pytest.approx(seconds, abs=1 / 8_000)
    assert not Path(f"out{suffix}.errors.jsonl").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_files_are_named_and_the_rest_go_on(cli, artifact, suffix):
    write_clip(Path("in/a.wav"))
    write_clip(Path("in/z.wav"))
    Path("in/[red]:smile:.wav").write_text("hello, this is text")
    Path("in/empty.wav").write_bytes(b"")
    result = cli("embed", artifact, "missing.wav", "in", "-o", f"out{suffix}")
    assert (result.status, result.stdout) == (1, "")
    assert read(f"out{suffix}")[0] == ["in/a.wav", "in/z.wav"]
    reasons = failures(f"out{suffix}")
    assert list(reasons) == ["missing.wav", "in/[red]:smile:.wav", "in/empty.wav"]
    assert said(result) == [
        *(f"failed: {reason}" for reason in reasons.values()),
        f"out{suffix}: 2 embeddings of {DIM} from 2 files",
        f"3 of 5 files failed: out{suffix}.errors.jsonl",
        "  No such file or directory: 1 file (first: missing.wav)",
        "  not audio: 1 file (first: in/[red]:smile:.wav)",
        "  no samples: 1 file (first: in/empty.wav)",
    ]
    assert "in/[red]:smile:.wav: is text" in result.stderr
    # A later run in which nothing fails leaves no errors file.
    assert cli("embed", artifact, "in/a.wav", "-o", f"out{suffix}").status == 0
    assert not Path(f"out{suffix}.errors.jsonl").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_files_bad(cli, artifact, suffix):
    Path("a.wav").write_text("hello")
    result = cli("embed", artifact, "a.wav", "b.wav", "-o", f"out{suffix}")
    assert result.status == 1
    assert f"2 of 2 files failed: out{suffix}.errors.jsonl" in said(result)
    assert list(failures(f"out{suffix}")) == ["a.wav", "b.wav"]
    assert names() == ["a.wav", artifact, f"out{suffix}.errors.jsonl"]


def test_a_clip_that_the_model_cannot_take_spoils_no_other(cli, artifact, engine):
    """A graph that gives NaN for silence only; its neighbours in the batch keep their values."""
    model = onnx.load(artifact)
    graph = model.graph
    (last,) = (node for node in graph.node if "layer_1" in node.output)
    last.output[0] = "plain"
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    floor = onnx.numpy_helper.from_array(np.array(90, np.float32), "floor")
    graph.initializer.extend([axes, floor])
    # 0 · √(max + 90 dB): zero, or NaN where all of the log-mel is at its floor of -100 dB.
    graph.node.extend(
        [
            onnx.helper.make_node("ReduceMax", ["log_mel", "axes"], ["peak"]),
            onnx.helper.make_node("Add", ["peak", "floor"], ["above"]),
            onnx.helper.make_node("Sqrt", ["above"], ["root"]),
            onnx.helper.make_node("Sub", ["root", "root"], ["zero"]),
            onnx.helper.make_node("Add", ["plain", "zero"], ["layer_1"]),
        ]
    )
    onnx.save(model, "nan.onnx")
    for index, name in enumerate(["a.wav", "b.wav", "c.wav"]):
        write_clip(Path("in") / name, index)
    write_clip(Path("in/silent.wav"), seconds=1.0)
    silent = bytearray(Path("in/silent.wav").read_bytes())
    silent[44:] = bytes(len(silent) - 44)
    Path("in/b.wav").write_bytes(silent)
    result = cli("embed", "nan.onnx", "in", "-o", "out.npz")
    assert result.status == 1
    assert "layer_1 holds values that are not finite" in failures("out.npz")["in/b.wav"]
    paths, _, rows = read("out.npz")
    assert paths == ["in/a.wav", "in/c.wav", "in/silent.wav"]
    np.testing.assert_array_equal(rows, engine.embed(paths))


def test_a_head(cli, artifact, engine):
    write_clip(Path("a.wav"))
    assert cli("embed", artifact, "a.wav", "-o", "out.npz", "--head", "max").status == 0
    np.testing.assert_array_equal(read("out.npz")[2][0], engine.embed("a.wav", head="max"))
    with np.load("out.npz") as archive:
        spec = Spec.from_json(str(archive["spec"]))
        assert spec == replace(engine.spec, head="max")
        assert str(archive["space"]) == spec.space != engine.spec.space


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_channels(cli, artifact, engine, suffix):
    """A stereo file whose channels cancel each other; FP32 WAV, so that the sum is zero."""
    left = signals.tone(1.0, RATE, 1).astype(np.float32) / 2
    soundfile.write("lr.wav", np.stack([left, -left], 1), RATE, subtype="FLOAT")
    soundfile.write("l0.wav", np.stack([left, 0 * left], 1), RATE, subtype="FLOAT")
    soundfile.write("mono.wav", left, RATE, subtype="FLOAT")
    out, files = f"out{suffix}", ["lr.wav", "l0.wav", "mono.wav"]

    result = cli("embed", artifact, *files, "-o", out)
    assert result.status == 0
    assert said(result) == [
        f"{out}: 3 embeddings of {DIM} from 3 files",
        "warning: digital silence after mixing the channels: 1 file (first: lr.wav); --channel "
        "first takes one alone",
    ]
    assert flags(out) == {
        "partial": [False] * 3,
        "silent": [True, False, False],
        "clipped_scale": [False] * 3,
    }
    np.testing.assert_array_equal(read(out)[2][0], engine.embed(0 * left))

    result = cli("embed", artifact, *files, "-o", out, "--channel", "first", "--overwrite")
    assert said(result) == [f"{out}: 3 embeddings of {DIM} from 3 files"]
    np.testing.assert_array_equal(read(out)[2], engine.embed([left] * 3))

    result = cli("embed", artifact, *files[:2], "-o", out, "--channel", "2", "--overwrite")
    assert said(result)[1:] == ["warning: digital silence in a channel: 1 file (first: l0.wav)"]
    assert flags(out)["silent"] == [False, True]
    np.testing.assert_array_equal(read(out)[2], engine.embed([-left, 0 * left]))

    result = cli("embed", artifact, "mono.wav", "lr.wav", "-o", out, "--channel", "2")
    assert result.status == 1
    assert list(failures(out)) == ["mono.wav"]
    assert read(out)[0] == ["lr.wav"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_for_each_channel(cli, artifact, engine, suffix):
    left = signals.tone(1.0, RATE, 1).astype(np.float32) / 2
    soundfile.write("l0.wav", np.stack([left, 0 * left, 20 * left], 1), RATE, subtype="FLOAT")
    soundfile.write("mono.wav", left, RATE, subtype="FLOAT")
    out = f"out{suffix}"
    loud = 20 * left
    assert np.abs(loud).max() < 16
    result = cli("embed", artifact, "l0.wav", "mono.wav", "-o", out, "--channel", "all")
    assert said(result) == [
        f"{out}: 4 embeddings of {DIM} from 2 files",
        "warning: digital silence in a channel: 1 file (first: l0.wav)",
    ]
    assert flags(out) == {
        "channel": [1, 2, 3, 1],
        "partial": [False] * 4,
        "silent": [False, True, False, False],
        "clipped_scale": [False] * 4,
    }
    expected = engine.embed([left, 0 * left, loud, left])
    np.testing.assert_array_equal(read(out)[2], expected)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_channels_that_are_none(cli, text):
    result = cli("embed", "no.onnx", "no.wav", "-o", "out.csv", f"--channel={text}")
    assert result.status == 2
    assert "is not mix, first, all or a number from 1 on" in " ".join(result.stderr.split())


def test_float_samples_at_the_scale_of_integers(cli, artifact):
    tone = signals.tone(1.0, RATE, 1).astype(np.float32)
    soundfile.write("int.wav", np.stack([tone, 32_768 * tone], 1), RATE, subtype="FLOAT")
    result = cli("embed", artifact, "int.wav", "-o", "out.csv", "--channel", "all")
    assert result.status == 0
    assert flags("out.csv")["clipped_scale"] == [False, True]
    assert said(result)[1:] == [
        "warning: samples beyond 16, where full scale is 1: 1 file (first: int.wav); integers "
        "saved as floats want dividing by their largest value (32768 for 16 bits)"
    ]
    cli("embed", artifact, "int.wav", "-o", "out.csv", "--overwrite")
    assert flags("out.csv")["clipped_scale"] == [True]


def test_a_damaged_file_fails_or_is_marked(cli, artifact, engine):
    write_clip(Path("a.wav"), seconds=2)
    half = Path("a.wav").read_bytes()[: 44 + 2 * RATE]
    Path("half.wav").write_bytes(half)
    result = cli("embed", artifact, "a.wav", "half.wav", "-o", "out.csv")
    assert result.status == 1
    assert "half.wav: truncated" in result.stderr
    assert read("out.csv")[0] == ["a.wav"]
    again = ("embed", artifact, "a.wav", "half.wav", "-o", "out.csv", "--partial")
    result = cli(*again)
    assert result.status == 1
    assert result.stderr == (
        "error: out.csv is there, made with other settings (partial: got True, expected False); "
        "choose another path, or replace it with --overwrite\n"
    )
    assert read("out.csv")[0] == ["a.wav"]
    result = cli(*again, "--overwrite")
    assert result.status == 0
    assert said(result)[1:] == [
        "warning: damaged or contradictory, embedded as far as it goes: 1 file (first: half.wav)"
    ]
    assert flags("out.csv")["partial"] == [False, True]
    assert read("out.csv")[1] == [2.0, 1.0]
    samples = soundfile.read("a.wav", dtype="float32")[0]
    np.testing.assert_array_equal(read("out.csv")[2][1], engine.embed(samples[:RATE]))


def test_folders_that_give_nothing_stop_no_other(cli, artifact):
    write_clip(Path("in/a.wav"))
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    result = cli("embed", artifact, "empty", "in", "-o", "out.csv")
    assert result.status == 1
    reasons = failures("out.csv")
    assert list(reasons) == ["empty"]
    assert said(result) == [
        f"failed: {reasons['empty']}",
        f"out.csv: 1 embedding of {DIM} from 1 file",
        "left out of 2 folders: 1 .txt",
        "0 of 1 file failed, 1 folder gave nothing or not all: out.csv.errors.jsonl",
    ]
    assert read("out.csv")[0] == ["in/a.wav"]


def test_what_ffmpeg_would_read(cli, artifact, monkeypatch):
    write_clip(Path("in/a.wav"))
    for name in ("b.m4a", "c.m4a", "d.wma", "e.jpg"):
        Path("in", name).touch()
    monkeypatch.setenv("PATH", "")
    result = cli("embed", artifact, "in", "-o", "out.csv")
    assert result.status == 0
    assert said(result)[1:] == [
        "left out of in/: 2 .m4a, 1 .jpg, 1 .wma; ffmpeg, which is not installed, would read "
        "2 .m4a, 1 .wma"
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_output_of_an_earlier_run_beside_new_errors(cli, artifact, suffix):
    write_clip(Path("a.wav"))
    out = f"out{suffix}"
    assert cli("embed", artifact, "a.wav", "-o", out).status == 0
    result = cli("embed", artifact, "b.wav", "-o", out)
    assert result.status == 1
    assert said(result)[1:] == [
        f"{out}: of an earlier run, removed, since this one has no embeddings",
        f"1 of 1 file failed: {out}.errors.jsonl",
        "  No such file or directory: 1 file (first: b.wav)",
    ]
    assert names() == ["a.wav", artifact, f"{out}.errors.jsonl"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in.csv", "in.csv: it is the input in.csv"),
        ("link.csv", "link.csv: it is the input in.csv"),
        ("model.csv", "model.csv: it is the input cnn14.onnx"),
        ("linked.csv", "linked.csv: it is the input "),
        ("pipe.csv", "pipe.csv: it is a named pipe, expected a regular file or a new one"),
    ],
)
def test_an_output_that_is_an_input_or_no_file(cli, artifact, output, message):
    write_clip(Path("in.csv"))
    write_clip(Path("in/x.wav"))
    Path("link.csv").symlink_to("in.csv")
    Path("linked.csv").symlink_to("in/x.wav")
    Path("model.csv").symlink_to(artifact)
    os.mkfifo("pipe.csv")
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    result = cli("embed", artifact, "in.csv", "in", "-o", output)
    assert result.status == 1
    assert result.stderr.startswith(f"error: cannot write {message}")
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before


def test_names_that_are_no_text(shell, artifact):
    name = os.fsdecode(b"caf\xe9.wav")
    write_clip(Path("in") / name)
    Path("in", os.fsdecode(b"\xff.wav")).write_text("hello, this is text")
    result = shell("embed", artifact, "in", "-o", "out.csv")
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("failed: in/\\udcff.wav: is text")
    assert read("out.csv")[0] == ["in/caf\\udce9.wav"]
    assert list(failures("out.csv")) == ["in/\\udcff.wav"]


def test_an_output_inside_the_input_folder(cli, artifact):
    write_clip(Path("in/a.wav"))
    for _ in range(2):
        assert cli("embed", artifact, "in", "-o", "in/out.csv").status == 0
        assert read("in/out.csv")[0] == ["in/a.wav"]
    assert names("in") == ["a.wav", "out.csv", "out.csv.job.json", "out.csv.spec.json"]


def test_a_folder_without_audio(cli, artifact):
    Path("in").mkdir()
    Path("in/notes.txt").write_text("no audio")
    result = cli("embed", artifact, "in", "-o", "out.csv")
    assert result.status == 1
    assert result.stderr.startswith("error: in: no audio in this folder")
    assert names() == [artifact, "in"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no/out.csv", "cannot write no/out.csv: No such file or directory; create the folder"),
        ("a.wav/out.csv", "cannot write a.wav/out.csv: Not a directory"),
        ("/proc/out.csv", "cannot write /proc/out.csv: No such file or directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(cli, output, message):
    write_clip(Path("a.wav"))
    Path("folder.csv").mkdir()
    result = cli("embed", "no.onnx", "a.wav", "-o", output)
    assert result.status == 1
    assert result.stderr.startswith(f"error: {message}")
    assert names() == ["a.wav", "folder.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(cli):
    Path("locked").mkdir(mode=0o500)
    result = cli("embed", "no.onnx", "a.wav", "-o", "locked/out.csv")
    assert result.status == 1
    assert "Permission denied; choose a folder that you may write to" in result.stderr


def test_a_bad_suffix_is_refused_before_the_work(cli):
    result = cli("embed", "no.onnx", "no.wav", "-o", "out.h5")
    assert result.status == 2
    assert "out.h5: cannot write .h5, expected .parquet, .npz, .csv" in result.stderr


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--device", "gpu"], 2, "device is 'gpu', expected 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        (["--head", "max"], 2, "head is 'max', and this artifact has no time axis to pool"),
        (["--normalization", "-4.3", "4.6"], 2, "normalization is (-4.3, 4.6), and the panns_16k"),
    ],
    ids=["device", "head", "normalization"],
)
def test_what_does_not_fit_the_artifact(cli, artifact, args, status, message):
    write_clip(Path("a.wav"))
    if "--head" in args:
        artifact = vector_artifact(artifact)
    result = cli("embed", artifact, "a.wav", "-o", "out.csv", *args)
    assert result.status == status
    assert message in result.stderr
    assert not Path("out.csv").exists()


def vector_artifact(artifact):
    """An artifact with a vector and no time axis: the mean of the log-mel over time."""
    model = onnx.load(artifact)
    spec = json.loads(model.metadata_props[0].value)
    spec |= {"frames_per_step": None, "chunk_margin": None, "embedding_dim": 64}
    spec["layers"] = [spec["layers"][0] | {"kind": "vector", "channels": 64, "freq": 1}]
    spec["layers"][0]["time_pool"] = 1
    node = onnx.helper.make_node("ReduceMean", ["log_mel", "axes"], ["layer_1"], keepdims=0)
    output = onnx.helper.make_tensor_value_info("layer_1", onnx.TensorProto.FLOAT, ["B", 64])
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = onnx.helper.make_graph([node], "mean", list(model.graph.input), [output], [axes])
    small = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    onnx.helper.set_model_props(small, {"fusion_engine": json.dumps(spec)})
    onnx.save(small, "vector.onnx")
    assert fe.Engine("vector.onnx").embed(np.zeros(16_000, np.float32)).shape == (64,)
    return "vector.onnx"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.onnx", None, "no.onnx: no such file"),
        ("text.onnx", b"hello", "text.onnx: ONNX Runtime cannot load it"),
        ("cnn14.plan", b"plan", "cnn14.plan: "),
        ("cnn14.bin", b"", "cnn14.bin: unknown kind '.bin', expected an .onnx or .plan file"),
    ],
)
def test_artifacts_that_are_none(cli, name, content, message):
    write_clip(Path("a.wav"))
    if content is not None:
        Path(name).write_bytes(content)
    before = names()
    result = cli("embed", name, "a.wav", "-o", "out.csv")
    assert result.status == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert names() == before


def test_the_examples_of_the_help_run(cli, artifact, monkeypatch):
    shutil.copy(artifact, "cnn14_3_6.onnx")
    # In place of a download; names have tests of their own.
    monkeypatch.setattr(_artifact, "named_artifact", lambda *_, **__: Path("cnn14_3_6.onnx"))
    for name in ("recordings/r.wav", "a.wav", "b.wav"):
        write_clip(Path(name), seconds=6)
    Path("b.wav").rename("b.flac")  # what it is says the content
    found = examples(cli, "embed")
    assert len(found) == 4
    for example in found:
        assert cli("embed", *example).status == 0, shlex.join(example)
        assert read(example[example.index("-o") + 1])[0]
