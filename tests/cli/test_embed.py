"""``fusion-engine embed`` with a real artifact."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

import fusion_engine as fe

from .conftest import command, on_a_terminal, write_clip
from .test_main import examples

DIM = 2048
SUFFIXES = [".parquet", ".npz", ".csv"]
pytestmark = pytest.mark.usefixtures("_here")


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def artifact(cnn14_artifact, tmp_path):
    (tmp_path / "cnn14.onnx").symlink_to(cnn14_artifact)
    return "cnn14.onnx"


@pytest.fixture(scope="session")
def engine(cnn14_artifact):
    return fe.Engine(cnn14_artifact)


def read(path):
    """Paths, durations and embeddings, by somebody else's reader."""
    path = Path(path)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        rows = table["embedding"].combine_chunks().values.to_numpy().reshape(len(table), -1)
        return table["path"].to_pylist(), table["duration"].to_pylist(), rows
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return (
                archive["paths"].tolist(),
                archive["durations"].tolist(),
                archive["embeddings"],
            )
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    values = np.array([row[2:] for row in rows], np.float64).astype(np.float32)
    return [row[0] for row in rows], [float(row[1]) for row in rows], values


def failures(output):
    lines = Path(f"{output}.errors.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["path"]: line["reason"] for line in map(json.loads, lines)}


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


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
    assert result.stderr == f"out{suffix}: 7 embeddings of {DIM}\n"
    paths, durations, rows = read(f"out{suffix}")
    expected = ["B/x.wav", "a/z.wav", "a/Ü.wav", "a b.wav", "b.wav"]
    assert paths == ["first.wav", *(f"in/{name}" for name in expected), "first.wav"]
    for path, duration, row in zip(paths, durations, rows, strict=True):
        np.testing.assert_array_equal(row, engine.embed(path))
        seconds = 1.0 if path == "first.wav" else 0.2 + inside.index(path[3:]) / 3
        assert duration == pytest.approx(seconds, abs=1 / 8_000)
    assert not Path(f"out{suffix}.errors.jsonl").exists()


def test_more_files_than_one_window(cli, artifact, engine):
    for index in range(70):
        write_clip(Path(f"in/{index:02}.wav"), index, seconds=0.1)
    Path("in/33.wav").write_bytes(b"")
    assert cli("embed", artifact, "in", "-o", "out.npz").status == 1
    paths, _, rows = read("out.npz")
    assert paths == [f"in/{index:02}.wav" for index in range(70) if index != 33]
    np.testing.assert_array_equal(rows, engine.embed(paths))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_files_are_named_and_the_rest_go_on(cli, artifact, suffix):
    write_clip(Path("in/a.wav"))
    write_clip(Path("in/z.wav"))
    Path("in/[red]:smile:.wav").write_text("hello")
    Path("in/empty.wav").write_bytes(b"")
    result = cli("embed", artifact, "missing.wav", "in", "-o", f"out{suffix}")
    assert (result.status, result.stdout) == (1, "")
    assert read(f"out{suffix}")[0] == ["in/a.wav", "in/z.wav"]
    reasons = failures(f"out{suffix}")
    assert list(reasons) == ["missing.wav", "in/[red]:smile:.wav", "in/empty.wav"]
    assert result.stderr.splitlines() == [
        *(f"failed: {reason}" for reason in reasons.values()),
        f"out{suffix}: 2 embeddings of {DIM}",
        f"3 of 5 files failed: out{suffix}.errors.jsonl",
    ]
    assert "in/[red]:smile:.wav: cannot be decoded" in result.stderr
    # A later run in which nothing fails leaves no errors behind.
    assert cli("embed", artifact, "in/a.wav", "-o", f"out{suffix}").status == 0
    assert not Path(f"out{suffix}.errors.jsonl").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_files_bad(cli, artifact, suffix):
    Path("a.wav").write_text("hello")
    result = cli("embed", artifact, "a.wav", "b.wav", "-o", f"out{suffix}")
    assert result.status == 1
    assert result.stderr.endswith(f"2 of 2 files failed: out{suffix}.errors.jsonl\n")
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


def test_names_that_are_no_text(shell, artifact):
    name = os.fsdecode(b"caf\xe9.wav")
    write_clip(Path("in") / name)
    Path("in", os.fsdecode(b"\xff.wav")).write_text("hello")
    result = shell("embed", artifact, "in", "-o", "out.csv")
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("failed: in/\\udcff.wav: cannot be decoded")
    assert read("out.csv")[0] == ["in/caf\\udce9.wav"]
    assert list(failures("out.csv")) == ["in/\\udcff.wav"]


def test_an_output_inside_the_input_folder(cli, artifact):
    write_clip(Path("in/a.wav"))
    for _ in range(2):
        assert cli("embed", artifact, "in", "-o", "in/out.csv").status == 0
        assert read("in/out.csv")[0] == ["in/a.wav"]
    assert names("in") == ["a.wav", "out.csv", "out.csv.spec.json"]


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
        ("folder.csv", "cannot write folder.csv: Is a directory"),
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
    assert "out.h5 must end in .parquet or .npz or .csv" in result.stderr


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(shell, artifact, suffix):
    write_clip(Path("a.wav"))
    Path(f"out{suffix}").write_text("old")
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    files = ["a.wav"] * 20
    result = shell("embed", artifact, *files, "-o", f"out{suffix}", before=before)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: cannot write out{suffix}: File too large; free some space, or choose a folder on "
        "another disk\n"
    )
    assert names() == ["a.wav", artifact, f"out{suffix}"]
    assert Path(f"out{suffix}").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(artifact, number):
    write_clip(Path("a.wav"), seconds=5)
    Path("out.parquet").write_text("old")
    # As in a terminal, whatever the test runner inherited.
    defaults = "; ".join(
        f"signal.signal(signal.{name}, signal.{action})"
        for name, action in [
            ("SIGINT", "default_int_handler"),
            ("SIGTERM", "SIG_DFL"),
            ("SIGHUP", "SIG_DFL"),
        ]
    )
    args = command(
        "embed",
        artifact,
        *["a.wav"] * 5_000,
        "-o",
        "out.parquet",
        before=f"import signal; {defaults}",
    )
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as process:
        while not any(path.stat().st_size for path in Path().glob(".fusion_engine-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    assert names() == ["a.wav", artifact, "out.parquet"]
    assert Path("out.parquet").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_dropped_stops_all_the_same(shell, artifact, number):
    """As it is in a finaliser, or in an import that a C extension tries."""
    write_clip(Path("a.wav"))
    default = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"
    before = (
        "import os, signal\n"
        "from fusion_engine.engine import Engine\n"
        f"signal.signal({number:d}, signal.{default})\n"
        "embed = Engine.embed\n"
        "class Dropped:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {number:d})\n"
        "def spy(self, audio, **options):\n"
        "    if len(audio):\n"
        "        Dropped()\n"
        "    return embed(self, audio, **options)\n"
        "Engine.embed = spy"
    )
    result = shell("embed", artifact, *["a.wav"] * 200, "-o", "out.parquet", before=before)
    assert "Exception ignored in" in result.stderr
    assert result.status == 128 + number
    assert names() == ["a.wav", artifact]


def test_a_progress_bar_on_a_terminal(artifact):
    write_clip(Path("a.wav"))
    Path("[red].wav").write_text("hello")
    files = ["a.wav", "[red].wav", "a.wav"]
    status, shown = on_a_terminal(command("embed", artifact, *files, "-o", "out.csv"))
    assert status == 1
    assert "Embedding" in shown
    assert "3/3" in shown
    assert "failed: [red].wav: cannot be decoded" in shown
    assert shown.count(f"out.csv: 2 embeddings of {DIM}") == 1


def test_a_narrow_terminal_cuts_no_message(artifact):
    long = "x" * 100 + ".wav"
    write_clip(Path("a.wav"))
    args = command("embed", artifact, "a.wav", long, "-o", "out.csv")
    shown = on_a_terminal(args, columns=30)[1]
    assert f"failed: {long}: No such file or directory" in shown


def test_no_progress_bar_elsewhere(shell, artifact):
    write_clip(Path("a.wav"))
    result = shell("embed", artifact, "a.wav", "-o", "out.csv", FORCE_COLOR="1", TERM="xterm")
    assert result.stderr == f"out.csv: 1 embeddings of {DIM}\n"


def test_the_examples_of_the_help_run(cli, artifact):
    shutil.copy(artifact, "cnn14_3_6.onnx")
    for name in ("recordings/r.wav", "a.wav", "b.wav"):
        write_clip(Path(name))
    Path("b.wav").rename("b.flac")  # what it is says the content
    found = examples(cli, "embed")
    assert len(found) == 2
    for example in found:
        assert cli("embed", *example).status == 0, shlex.join(example)
        assert read(example[example.index("-o") + 1])[0]
