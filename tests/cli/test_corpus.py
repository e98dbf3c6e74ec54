"""``fusion-engine embed`` over many files: windows, lists, shares, and runs that are stopped."""

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from .conftest import RATE, command, write_clip
from .tables import DIM, SUFFIXES, copies, names, read, said

pytestmark = [pytest.mark.usefixtures("_here"), pytest.mark.heavy]

# Else a run may be at its end when its first rows are seen.
SLOWLY = """
import time
from fusion_engine.engine.dispatch import Dispatcher
embed = Dispatcher.embed
Dispatcher.embed = lambda *arguments: (time.sleep(3), embed(*arguments))[1]
"""


def test_more_files_than_one_window(cli, artifact, engine):
    for index in range(70):
        write_clip(Path(f"in/{index:02}.wav"), index, seconds=0.1)
    Path("in/33.wav").write_bytes(b"")
    assert cli("embed", artifact, "in", "-o", "out.npz").status == 1
    paths, _, rows = read("out.npz")
    assert paths == [f"in/{index:02}.wav" for index in range(70) if index != 33]
    np.testing.assert_array_equal(rows, engine.embed(paths))


def test_windows_are_rows(cli, artifact, engine):
    write_clip(Path("a.wav"), seconds=3)
    write_clip(Path("b.wav"), seconds=1)
    args = ("embed", artifact, "a.wav", "b.wav", "--window", "1", "--hop", "0.75")
    result = cli(*args, "--tail", "keep", "-o", "out.parquet")
    assert result.status == 0
    table = pq.read_table("out.parquet").to_pydict()
    assert table["path"] == ["a.wav"] * 4 + ["b.wav"] * 2
    assert table["start"] == [0.0, 0.75, 1.5, 2.25, 0.0, 0.75]
    assert table["end"] == [1.0, 1.75, 2.5, 3.0, 1.0, 1.0]
    assert table["duration"] == [3.0] * 4 + [1.0] * 2
    samples = soundfile.read("a.wav", dtype="float32")[0]
    np.testing.assert_array_equal(
        table["embedding"][1], engine.embed(samples[round(0.75 * RATE) : round(1.75 * RATE)])
    )
    result = cli("embed", artifact, "a.wav", "--hop", "1", "-o", "x.csv")
    assert (result.status, "there is no window" in result.stderr) == (2, True)


def test_a_list_with_parts(cli, artifact, engine):
    write_clip(Path("a.wav"), seconds=3)
    write_clip(Path("b.wav"), seconds=1)
    Path("list.csv").write_text("path,start,end\na.wav,1.5,2\nb.wav,,\na.wav,0.25,1.25\n")
    result = cli("embed", artifact, "--from-list", "list.csv", "-o", "out.parquet")
    assert said(result) == [f"out.parquet: 3 embeddings of {DIM} from 2 files"]
    table = pq.read_table("out.parquet").to_pydict()
    assert table["path"] == ["a.wav", "a.wav", "b.wav"]
    assert list(zip(table["start"], table["end"], table["duration"], strict=True)) == [
        *((0.25, 1.25, 3.0), (1.5, 2.0, 3.0), (0.0, 1.0, 1.0))
    ]
    samples = soundfile.read("a.wav", dtype="float32")[0]
    np.testing.assert_array_equal(
        table["embedding"][1], engine.embed(samples[round(1.5 * RATE) : 2 * RATE])
    )
    for wrong in (["a.wav", "--from-list", "list.csv"], []):
        result = cli("embed", artifact, *wrong, "-o", "x.csv")
        assert result.status == 2
        assert "one of the two" in result.stderr


def test_shards_share_the_files(cli, artifact):
    folder, found = copies(20), []
    for number in (1, 2, 3):
        out = f"{number}.parquet"
        assert cli("embed", artifact, folder, "--shard", f"{number}/3", "-o", out).status == 0
        found += read(out)[0]
    assert len(found) == 20
    assert sorted(found) == sorted(f"clips/{n}.wav" for n in range(20))
    result = cli("embed", artifact, folder, "--shard", "4/3", "-o", "x.csv")
    assert (result.status, "4/3" in result.stderr) == (2, True)


def test_a_dry_run_writes_nothing(cli, artifact):
    folder = copies(5)
    result = cli("embed", artifact, folder, "--window", "0.5", "-o", "x.parquet", "--dry-run")
    assert result.status == 0
    assert re.search(r"^files +5, ", result.stdout, re.MULTILINE)
    assert re.search(r"^rows +10$", result.stdout, re.MULTILINE)
    assert re.search(r"^time +about ", result.stdout, re.MULTILINE)
    assert names() == ["clips", artifact]


def test_half_precision_and_a_dataset(cli, artifact):
    folder = copies(8)
    assert cli("embed", artifact, folder, "-o", "out.parquet").status == 0
    result = cli("embed", artifact, folder, "-o", "data/", "--dtype", "float16")
    assert result.status == 0
    table = pq.read_table("data")
    whole = pq.read_table("out.parquet")
    assert table["path"].equals(whole["path"])
    assert table.schema.field("embedding").type.value_type == pa.float16()
    np.testing.assert_allclose(
        np.array(table["embedding"].to_pylist(), np.float32),
        np.array(whole["embedding"].to_pylist(), np.float32),
        rtol=2**-11,
        atol=1e-6,
    )


@pytest.mark.heavy
@pytest.mark.parametrize("windows", [[], ["--window", "0.4", "--hop", "0.3"]], ids=str)
def test_a_killed_run_goes_on(cli, artifact, windows):
    args = ("embed", artifact, copies(300), "-o", "out.parquet", *windows)
    with subprocess.Popen(command(*args, before=SLOWLY), stderr=subprocess.DEVNULL) as process:
        while not any(Path().glob("out.parquet.parts/part-*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert names() == ["clips", artifact, "out.parquet.parts"]
    result = cli(*args)
    going_on = r"going on: (\d+) of 300 files are done, (\d+) rows are kept"
    done, kept = map(int, re.fullmatch(going_on, result.stderr.splitlines()[0]).groups())
    assert 0 < done <= 300
    assert done <= kept
    assert names() == ["clips", artifact, "out.parquet"]
    after = Path("out.parquet").read_bytes()
    # Made by the same settings: done again, from the start.
    assert cli(*args).stderr.splitlines()[0].startswith("out.parquet: ")
    assert Path("out.parquet").read_bytes() == after


def test_a_stopped_run_of_other_settings_does_not_mix(cli, artifact):
    folder = copies(300)
    args = command("embed", artifact, folder, "-o", "out.parquet", before=SLOWLY)
    with subprocess.Popen(args, stderr=subprocess.DEVNULL) as process:
        while not any(Path().glob("out.parquet.parts/part-*.parquet")):
            time.sleep(0.01)
        busy = cli("embed", artifact, folder, "-o", "out.parquet")
        assert busy.status == 1
        assert f"is being written by process {process.pid}" in busy.stderr
        process.kill()
    other = ("embed", artifact, folder, "-o", "out.parquet", "--window", "0.5")
    result = cli(*other)
    assert result.status == 1
    assert "other settings (window: got [0.5" in result.stderr
    assert result.stderr.endswith("start anew with --fresh\n")
    assert cli(*other, "--fresh").status == 0
    assert len(read("out.parquet")[0]) == 600


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(shell, artifact, suffix):
    Path(f"out{suffix}").write_text("old")
    # From the first rows on: what decodes shares files in memory, which the limit also holds for.
    before = """
import resource
from fusion_engine.output import EmbeddingWriter
write = EmbeddingWriter.write
def limited(self, *rows):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    write(self, *rows)
EmbeddingWriter.write = limited
"""
    args = ("embed", artifact, copies(20), "-o", f"out{suffix}", "--overwrite")
    result = shell(*args, before=before)
    assert (result.status, result.stdout) == (1, "")
    assert re.search(
        rf"^error: cannot write .*out{suffix}\S*: File too large; free some space, or choose a "
        r"folder on another disk$",
        result.stderr,
        re.MULTILINE,
    )
    assert names() == ["clips", artifact, f"out{suffix}"]
    assert Path(f"out{suffix}").read_text() == "old"
    # With room again it ends.
    assert shell(*args).status == 0
    assert len(read(f"out{suffix}")[0]) == 20
    assert f"out{suffix}.parts" not in names()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(artifact, number):
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
        copies(1_500),
        *("-o", "out.parquet", "--overwrite"),
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
    assert names() == ["clips", artifact, "out.parquet", "out.parquet.parts"]
    assert Path("out.parquet").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_dropped_stops_all_the_same(shell, artifact, number):
    """As it is in a finaliser, or in an import that a C extension tries."""
    default = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"
    before = (
        "import os, signal\n"
        "from fusion_engine.engine.dispatch import Dispatcher\n"
        f"signal.signal({number:d}, signal.{default})\n"
        "embed = Dispatcher.embed\n"
        "class Dropped:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {number:d})\n"
        "def spy(self, clips, head):\n"
        "    if clips:\n"
        "        Dropped()\n"
        "    return embed(self, clips, head)\n"
        "Dispatcher.embed = spy"
    )
    result = shell("embed", artifact, copies(200), "-o", "out.parquet", before=before)
    assert "Exception ignored in" in result.stderr
    assert result.status == 128 + number
    assert names() == ["clips", artifact, "out.parquet.parts"]
