"""What a job keeps, refuses and writes."""

import json
import logging
import os
import subprocess
import sys
import threading
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from fusion_engine import FusionEngineError
from fusion_engine import output as output_module
from fusion_engine.job import dataset, open_job
from fusion_engine.job.folder import JobFolder
from fusion_engine.journal import journal
from fusion_engine.journal import part as part_module
from fusion_engine.output import Row
from fusion_engine.spec import LayerSpec

from . import fake

FILES = 12


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch):
    """Rows are on disk when a test says so."""
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 1e6)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "in").mkdir()
    return fake.make_files(tmp_path / "in", FILES)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.parquet"


def job_of(output, settings=fake.SETTINGS, **options):
    return open_job(output, fake.SPEC, settings, **options)


def run(output, paths, **options):
    with job_of(output, **options) as job:
        fake.run(job, paths)
        return job.complete(paths)


class _Stopped(Exception):
    pass


def stop(output, paths, **options):
    """A run that ends before its output, with rows of ``paths``."""
    with suppress(_Stopped), job_of(output, **options) as job:
        fake.run(job, paths)
        raise _Stopped


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_of(table):
    columns = ("path", "start", "duration", "partial", "embedding")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def test_a_stopped_run_goes_on(out, paths):
    stop(out, paths[:6])
    assert fake.replay(Path(f"{out}.parts"))[1] == {
        str(path) for path in paths[:6] if not fake.fails(path)
    }
    with job_of(out) as job:
        assert job.going_on == (5, 1 + 2 + 40 + 0 + 7)
        done = [job.is_done(path) for path in paths]
        assert done == [n < 6 and not fake.fails(path) for n, path in enumerate(paths)]
        fake.run(job, paths)
        completed = job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table(paths)
    assert completed == (len(fake.table(paths)), False)
    assert names(out.parent) == ["in", out.name, f"{out.name}.errors.jsonl"]


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_a_disturbed_run_writes_the_same_bytes(tmp_path, paths, suffix, monkeypatch):
    monkeypatch.setattr(output_module, "_ROW_GROUP_BYTES", 7 * 4 * fake.DIM)
    monkeypatch.setattr(journal, "_READ_BYTES", 5 * 4 * fake.DIM)
    monkeypatch.setattr(part_module, "_GROUP_BYTES", 3 * 4 * fake.DIM)
    run(tmp_path / f"a{suffix}", paths)
    for count in (2, 3, 7):
        stop(tmp_path / f"b{suffix}", paths[::-1][:count])
    run(tmp_path / f"b{suffix}", paths)
    for name in names(tmp_path):
        if name.startswith("a.") and "errors" not in name:
            other = tmp_path / f"b{name[1:]}"
            assert (tmp_path / name).read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_rows_of_an_unfinished_file(out, paths):
    long = paths[2]
    with job_of(out) as job:
        assert job.rows_done(long) == 0
        fake.add(job, long, 0, 10)
        job.flush()
        fake.add(job, long, 10, 11)
    with job_of(out) as job:
        assert job.going_on == (0, 11)
        assert not job.is_done(long)
        assert job.rows_done(long) == 11
        fake.add(job, long, 11, 40)
        fake.finish(job, long)
        job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table([long])


def test_a_file_that_nobody_asked_the_rows_of_begins_anew(out, paths):
    long = paths[2]
    with job_of(out) as job:
        fake.add(job, long, 0, 10)
    with job_of(out) as job:
        fake.add(job, long, 0, 40)
        fake.finish(job, long)
        job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table([long])


@pytest.mark.parametrize("change", ["size", "mtime", "gone"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_changed_is_done_again(out, paths, change, finished):
    path, other = paths[2], paths[1]
    with job_of(out) as job:
        fake.run(job, [other])
        fake.add(job, path, 0, 40 if finished else 9)
        if finished:
            fake.finish(job, path)
    info = path.stat()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"y" * (info.st_size + (change == "size")))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + (change == "mtime")))
    with job_of(out) as job:
        assert job.is_done(other)
        assert not job.is_done(path)
        assert job.rows_done(path) == 0
        job.add(path, [fake.row(path, 0)], np.zeros((1, fake.DIM), np.float32))
        job.finish(path, duration=1.0, partial=False)
        job.complete(paths)
    table = pq.read_table(out)
    assert table["path"].to_pylist() == [str(other)] * 2 + [str(path)]
    assert not np.any(table["embedding"].to_pylist()[2])


def test_a_file_that_changes_while_it_is_read_is_done_again(out, paths):
    with job_of(out) as job:
        job.is_done(paths[1])
        paths[1].write_bytes(b"changed")
        fake.add(job, paths[1], 0, 2)
        fake.finish(job, paths[1])
    with job_of(out) as job:
        assert not job.is_done(paths[1])


def test_a_file_of_no_rows_is_done(out, paths):
    stop(out, [paths[3]])
    with job_of(out) as job:
        assert job.is_done(paths[3])
        assert job.rows_done(paths[3]) == 0


def test_a_failure_voids_what_was_on_disk(out, paths):
    stop(out, [paths[2]])
    with job_of(out) as job:
        job.fail(paths[2], "bad")
        fake.run(job, [paths[1]])
    with job_of(out) as job:
        assert job.going_on == (1, 2)
        assert not job.is_done(paths[2])
        assert job.rows_done(paths[2]) == 0
        job.fail(paths[2], "bad again")
        assert job.complete(paths) == (2, False)
    errors = Path(f"{out}.errors.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in errors] == [{"path": str(paths[2]), "reason": "bad again"}]


def test_the_order_of_the_output_is_the_one_asked_for(out, paths):
    run(out, paths)
    assert rows_of(pq.read_table(out)) == fake.table(paths)
    with job_of(out) as job:
        fake.run(job, paths)
        job.complete(iter(paths[9:1:-2]))
    assert rows_of(pq.read_table(out)) == fake.table(paths[9:1:-2])


def test_all_rows_are_seen(out, paths):
    stop(out, paths[:5])
    seen = []
    with job_of(out) as job:
        fake.run(job, paths)
        job.complete(paths, seen=seen.extend)
    assert [(r.path, r.start, r.duration, r.partial) for r in seen] == [
        entry[:4] for entry in fake.table(paths)
    ]
    assert [r.silent for r in seen] == pq.read_table(out)["silent"].to_pylist()


def test_finished_rows_are_on_disk_by_themselves(out, paths, monkeypatch):
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 0.01)
    written = threading.Event()
    write_part = journal.write_part

    def write(*args):
        write_part(*args)
        written.set()

    monkeypatch.setattr(journal, "write_part", write)
    with job_of(out) as job:
        fake.run(job, paths[:3])
        assert written.wait(60)
        monkeypatch.undo()
    assert not [t for t in threading.enumerate() if t.name == "fusion_engine-journal"]


def test_many_bytes_are_not_held(out, paths, monkeypatch):
    monkeypatch.setattr(journal, "_HELD_BYTES", 5_000)
    with job_of(out) as job:
        fake.run(job, [paths[2]])
        assert 20 <= len(fake.replay(Path(f"{out}.parts"))[0]) < 40


@pytest.mark.parametrize("damage", ["empty", "half", "text", "no footer"])
def test_torn_parts_are_removed(out, paths, damage, caplog):
    for path in (paths[1], paths[2], paths[5]):
        stop(out, [path])
    part = Path(f"{out}.parts") / "part-000002.parquet"
    content = part.read_bytes()
    part.write_bytes(
        {
            "empty": b"",
            "half": content[: len(content) // 2],
            "text": b"text",
            "no footer": content[:-8] + bytes(8),
        }[damage]
    )
    with caplog.at_level(logging.WARNING), job_of(out) as job:
        assert f"removed, for it is damaged: {part}" in caplog.text
        assert not part.exists()
        assert [job.is_done(path) for path in paths[:6]] == [False, True, *[False] * 3, True]
        fake.run(job, paths)
        job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table(paths)


def test_the_part_that_is_lost_was_the_middle_of_a_file(out, paths):
    long = paths[2]
    for first in (0, 10, 20, 30):
        with job_of(out) as job:
            job.rows_done(long)
            fake.add(job, long, first, first + 10)
            if first == 30:
                fake.finish(job, long)
    (Path(f"{out}.parts") / "part-000002.parquet").write_bytes(b"")
    with job_of(out) as job:
        assert not job.is_done(long)
        assert job.rows_done(long) == 10
        fake.run(job, [long])
        job.complete([long])
    assert rows_of(pq.read_table(out)) == fake.table([long])


def test_a_part_that_has_changed_is_noticed(out, paths):
    stop(out, [paths[2]])
    part = Path(f"{out}.parts") / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    place = content.index(fake.embedding(paths[2], 20).tobytes())
    content[place] ^= 1
    part.write_bytes(content)
    message = r"part-000001\.parquet.*remove it and run"
    with pytest.raises(FusionEngineError, match=message), job_of(out) as job:
        job.complete(paths)
    assert names(out.parent) == ["in", f"{out.name}.parts"]
    part.unlink()
    run(out, [paths[2]])
    assert rows_of(pq.read_table(out)) == fake.table([paths[2]])


def test_other_settings_are_refused(out, paths):
    stop(out, paths)
    before = names(Path(f"{out}.parts"))
    settings = fake.SETTINGS | {"hop": 1.25, "new": [1]}
    del settings["head"]
    with pytest.raises(FusionEngineError) as caught, job_of(out, settings):
        pass
    assert str(caught.value) == (
        f"{out}.parts holds the rows of a run that was stopped, which had other settings "
        "(head: got nothing, expected None; hop: got 1.25, expected 2.5; new: got [1], expected "
        "nothing); give the same ones, or start anew with --fresh"
    )
    assert names(Path(f"{out}.parts")) == before
    for options in ({"dtype": "float16"}, {"channels": True}):
        with pytest.raises(FusionEngineError, match=next(iter(options))), job_of(out, **options):
            pass
    with job_of(out, settings, fresh=True) as job:
        assert job.going_on == (0, 0)
    with job_of(out, settings) as job:
        assert job.complete([]) == (0, False)
    assert names(out.parent) == ["in"]


def test_settings_of_a_run_that_kept_nothing_do_not_bind(out):
    with job_of(out):
        pass
    assert list(out.parent.iterdir()) == []
    Path(f"{out}.parts").mkdir()
    (Path(f"{out}.parts") / "job.json").write_text('{"settings": {"hop": 0}}')
    with job_of(out):
        pass
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}'])
def test_damaged_settings(out, paths, text):
    stop(out, paths)
    (Path(f"{out}.parts") / "job.json").write_text(text)
    with pytest.raises(FusionEngineError, match=r"job\.json: .*start anew with --fresh"):
        run(out, paths)
    run(out, paths, fresh=True)
    assert rows_of(pq.read_table(out)) == fake.table(paths)


def test_a_folder_of_somebody_else(out, paths):
    other = Path(f"{out}.parts")
    other.mkdir()
    (other / "part-000001.parquet").write_text("theirs")
    for fresh in (False, True):
        with pytest.raises(FusionEngineError, match=r"no job\.json.*move it away"):
            run(out, paths, fresh=fresh)
    assert names(other) == ["part-000001.parquet"]
    (other / "part-000001.parquet").rename(other / "notes.txt")
    run(out, paths)
    assert names(other) == ["notes.txt"]


def test_two_runs_at_a_time(out, paths):
    with job_of(out) as job:
        fake.run(job, paths[:3])
        program = f"""
from tests.job import fake
from fusion_engine import FusionEngineError
from fusion_engine.job import open_job
try:
    with open_job({str(out)!r}, fake.SPEC, fake.SETTINGS, fresh=True):
        pass
except FusionEngineError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        assert done.stdout == (
            f"{out} is being written by process {os.getpid()}, expected one run at a time; wait "
            "for it, or choose another path\n"
        )
        job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table(paths[:3])
    run(out, paths)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv", "/"])
def test_an_output_of_other_settings_is_not_replaced(tmp_path, paths, suffix):
    out = f"{tmp_path}/out{suffix}"
    run(out, paths[:3])
    run(out, paths[:2])
    before = content(tmp_path)
    with pytest.raises(FusionEngineError, match=r"hop: got 1, expected 2\.5.*--overwrite"):
        run(out, paths, settings=fake.SETTINGS | {"hop": 1})
    assert content(tmp_path) == before
    run(out, paths, settings=fake.SETTINGS | {"hop": 1}, overwrite=True)
    with pytest.raises(FusionEngineError, match=r"hop: got 2\.5, expected 1"):
        run(out, paths)
    assert not list(tmp_path.glob("*.parts"))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_a_file_that_is_no_output_is_not_replaced(tmp_path, paths, suffix):
    out = tmp_path / f"out{suffix}"
    out.write_text("mine")
    with pytest.raises(FusionEngineError, match="does not say which settings made it"):
        run(out, paths)
    assert out.read_text() == "mine"
    assert names(tmp_path) == ["in", out.name]


def test_an_output_that_appears_meanwhile_is_not_replaced(out, paths):
    with job_of(out) as job:
        fake.run(job, paths)
        out.write_text("theirs")
        with pytest.raises(FusionEngineError, match="does not say which settings"):
            job.complete(paths)
    assert out.read_text() == "theirs"
    out.unlink()
    with job_of(out) as job:
        job.complete(paths)
    assert rows_of(pq.read_table(out)) == fake.table(paths)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv", "/"])
def test_a_job_without_rows_removes_an_older_output(tmp_path, paths, suffix):
    out = f"{tmp_path}/out{suffix}"
    with job_of(out) as job:
        assert job.complete(paths) == (0, False)
    run(out, paths[:3])
    with job_of(out) as job:
        job.fail(paths[0], "bad")
        assert job.complete(paths) == (0, True)
    assert names(tmp_path) == ["in", f"out{suffix.rstrip('/')}.errors.jsonl"]


def test_a_link_stays_a_link(tmp_path, paths):
    (tmp_path / "there").mkdir()
    (tmp_path / "out.parquet").symlink_to(tmp_path / "there" / "x.parquet")
    stop(tmp_path / "out.parquet", paths)
    assert names(tmp_path / "there") == ["x.parquet.parts"]
    run(tmp_path / "out.parquet", paths)
    assert (tmp_path / "out.parquet").is_symlink()
    assert names(tmp_path / "there") == ["x.parquet"]


@pytest.mark.parametrize(
    ("output", "dtype", "message"),
    [
        ("out", "float32", r"expected \.parquet, \.npz, \.csv"),
        ("out.txt", "float32", r"expected \.parquet, \.npz, \.csv"),
        ("out.csv", "float16", r"write \.parquet or \.npz for float16"),
        ("out.parquet", "float64", "dtype is 'float64', expected float32 or float16"),
        ("out/", "float64", "dtype is 'float64', expected float32 or float16"),
    ],
)
def test_formats_that_are_not_written(tmp_path, output, dtype, message):
    with pytest.raises(ValueError, match=message), job_of(f"{tmp_path}/{output}", dtype=dtype):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(FusionEngineError, match="No such file or directory; create the folder"),
        job_of(tmp_path / "no" / "out.parquet"),
    ):
        pass


@pytest.mark.parametrize(
    ("rows", "vectors"),
    [
        ([fake.row("other", 0)], np.zeros((1, fake.DIM), np.float32)),
        ([], np.zeros((1, fake.DIM), np.float32)),
        ([fake.row("0.wav", 0)], np.zeros((1, fake.DIM), np.float64)),
        ([replace(fake.row("0.wav", 0), channel=1)], np.zeros((1, fake.DIM), np.float32)),
    ],
)
def test_rows_that_do_not_fit(out, rows, vectors):
    with job_of(out) as job:
        with pytest.raises(ValueError, match="expected"):
            job.add("0.wav", rows, vectors)
        assert job.complete(["0.wav"]) == (0, False)


def test_too_many_rows_for_npz(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(output_module, "NPZ_MAX_CLIPS", 10)
    with job_of(tmp_path / "out.npz") as job:
        fake.run(job, paths[:3])
        job.flush()
        with pytest.raises(FusionEngineError, match=r"43 clips are too many for \.npz"):
            fake.add(job, paths[5], 0, 1)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", "/"])
def test_float16(tmp_path, paths, suffix):
    out = f"{tmp_path}/out{suffix}"
    run(out, paths, dtype="float16")
    expected = np.array([entry[-1] for entry in fake.table(paths)], np.float16)
    if suffix == ".npz":
        with np.load(out, allow_pickle=False) as archive:
            vectors = archive["embeddings"]
    else:
        table = pa.dataset.dataset(out).to_table()
        assert table["embedding"].type == pa.list_(pa.float16(), fake.DIM)
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, fake.DIM)
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, expected)


def test_a_value_beyond_float16(out, paths):
    vectors = np.full((2, fake.DIM), 65504, np.float32)
    rows = [fake.row(paths[1], number) for number in range(2)]
    with job_of(out, dtype="float16") as job:
        job.add(paths[1], rows, vectors)
        vectors[1, 3] = -65520
        with pytest.raises(FusionEngineError) as caught:
            job.add(paths[1], rows, vectors)
    assert str(caught.value) == (
        f"{paths[1]}: the embedding of 1 s to 2 s holds -65520, expected at most 65504, the "
        "largest float16; keep float32"
    )


def test_channels(out, paths):
    with job_of(out, channels=True) as job:
        rows = [replace(fake.row(paths[1], n), channel=n + 1) for n in range(2)]
        job.add(paths[1], rows, np.zeros((2, fake.DIM), np.float32))
        job.finish(paths[1], duration=2.0, partial=True)
        job.complete(paths)
    table = pq.read_table(out)
    assert table["channel"].to_pylist() == [1, 2]
    assert table["partial"].to_pylist() == [True, True]


def test_a_path_that_is_no_unicode(out, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(b"")
    with job_of(out) as job:
        row = Row(path=str(path), end=1.0, duration=0.0)
        job.add(path, [row], np.zeros((1, fake.DIM), np.float32))
        job.finish(path, duration=1.0, partial=False)
    with job_of(out) as job:
        assert job.is_done(path)
        job.complete([path])
    assert pq.read_table(out)["path"].to_pylist() == [f"{tmp_path}/caf\\udce9.wav"]


def test_what_an_output_says_of_its_job(tmp_path, paths):
    from fusion_engine import __version__

    for suffix in (".parquet", ".npz", ".csv", "/"):
        run(f"{tmp_path}/out{suffix}", paths, command="fusion-engine embed in/")
    with np.load(tmp_path / "out.npz") as archive:
        npz = str(archive["job"])
    parquet = pq.read_metadata(tmp_path / "out.parquet").metadata
    part = pq.read_metadata(tmp_path / "out" / "part-000000.parquet").metadata
    assert parquet[b"fusion_engine"].decode() == fake.SPEC.to_json()
    assert part[b"fusion_engine_job"] == parquet[b"fusion_engine_job"]
    csv = (tmp_path / "out.csv.job.json").read_text()
    for text in (npz, parquet[b"fusion_engine_job"], csv):
        assert json.loads(text) == {
            "command": "fusion-engine embed in/",
            "settings": fake.SETTINGS
            | {"embedding_dim": fake.DIM, "channels": False, "dtype": "float32"},
            "version": __version__,
        }


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(dataset, "_FILE_BYTES", 30 * 4 * fake.DIM)


@pytest.mark.usefixtures("small_files")
def test_a_dataset(tmp_path, paths):
    (tmp_path / "out").mkdir()
    stop(tmp_path / "out", paths[:6])
    assert names(tmp_path) == ["in", "out", "out.parts"]
    run(tmp_path / "out", paths)
    rows = fake.table(paths)
    files = [f"part-{n:06d}.parquet" for n in range(-(-len(rows) // 30))]
    assert len(files) > 2
    assert names(tmp_path / "out") == files
    assert names(tmp_path) == ["in", "out", "out.errors.jsonl"]
    assert rows_of(pa.dataset.dataset(tmp_path / "out").to_table()) == rows
    assert rows_of(pa.concat_tables(pq.read_table(tmp_path / "out" / f) for f in files)) == rows
    sizes = [pq.read_metadata(tmp_path / "out" / file).num_rows for file in files]
    assert sizes[:-1] == [30] * (len(files) - 1)
    # A shorter one in its place leaves none of its files.
    run(tmp_path / "out", paths[:3])
    assert names(tmp_path / "out") == files[:2]


@pytest.mark.usefixtures("small_files")
def test_duckdb_reads_a_dataset(tmp_path, paths):
    duckdb = pytest.importorskip("duckdb")
    run(f"{tmp_path}/out/", paths)
    query = f"select path, start, duration, partial, embedding from '{tmp_path}/out/*.parquet'"
    found = [(*entry[:4], list(entry[4])) for entry in duckdb.sql(query).fetchall()]
    assert found == fake.table(paths)


@pytest.mark.usefixtures("small_files")
def test_polars_reads_a_dataset(tmp_path, paths):
    polars = pytest.importorskip("polars")
    run(f"{tmp_path}/out/", paths)
    frame = polars.read_parquet(tmp_path / "out")
    found = frame.select("path", "start", "duration", "partial", "embedding").rows()
    assert [(*entry[:4], list(entry[4])) for entry in found] == fake.table(paths)


def test_a_folder_with_other_things_is_not_replaced(tmp_path, paths):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(FusionEngineError, match=r"it holds notes\.txt, expected a new folder"):
        run(f"{tmp_path}/out/", paths, overwrite=True)
    assert names(tmp_path) == ["in", "out"]


def test_a_dataset_whose_replacement_was_killed_is_put_back(tmp_path, paths):
    run(f"{tmp_path}/out/", paths)
    stop(f"{tmp_path}/out/", paths)
    (tmp_path / "out").rename(tmp_path / "out.parts" / ".fusion_engine-replaced")
    stop(f"{tmp_path}/out/", paths)
    assert rows_of(pa.dataset.dataset(tmp_path / "out").to_table()) == fake.table(paths)
    assert names(tmp_path / "out.parts")[:2] == ["job.json", "lock"]


@pytest.mark.parametrize("suffix", [".parquet", "/"])
def test_what_a_killed_run_was_writing_is_removed(tmp_path, paths, suffix):
    out = f"{tmp_path}/out{suffix}"
    done = [path for path in paths if not fake.fails(path)]
    stop(out, done)
    parts = next(tmp_path.glob("*.parts"))
    (parts / ".fusion_engine-0123456789abcdef.parquet").touch()
    (parts / ".fusion_engine-staged").mkdir()
    (parts / ".fusion_engine-staged" / "part-000009.parquet").touch()
    run(out, done)
    assert names(tmp_path) == ["in", f"out{suffix.rstrip('/')}"]
    assert rows_of(pa.dataset.dataset(out).to_table()) == fake.table(paths)


def test_the_reasons_are_in_their_file_before_the_parts_go(out, paths, monkeypatch):
    def killed(self):
        raise _Stopped

    monkeypatch.setattr(JobFolder, "remove_parts", killed)
    with suppress(_Stopped):
        run(out, paths)
    assert len(Path(f"{out}.errors.jsonl").read_text().splitlines()) == 2


def test_an_abandoned_job_keeps_its_rows_and_ends_with_the_interpreter(out):
    program = f"""
from tests.job import fake
from fusion_engine.job import open_job
from pathlib import Path
context = open_job({str(out)!r}, fake.SPEC, fake.SETTINGS)
job = context.__enter__()
fake.add(job, Path("2.wav"), 0, 40)
import builtins
builtins.kept = context  # for ever
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(fake.replay(Path(f"{out}.parts"))[0]) == 40


def test_a_fork_writes_nothing(out, paths):
    program = f"""
import os
from tests.job import fake
from fusion_engine.job import open_job
from pathlib import Path
with open_job({str(out)!r}, fake.SPEC, fake.SETTINGS) as job:
    fake.add(job, Path("2.wav"), 0, 20)
    if os.fork() == 0:
        raise SystemExit
    os.wait()
    assert sorted(os.listdir({str(out) + ".parts"!r})) == ["job.json", "lock"]
    fake.add(job, Path("2.wav"), 20, 40)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(fake.replay(Path(f"{out}.parts"))[0]) == 40


TINY = replace(
    fake.SPEC,
    layers=(LayerSpec(number=1, kind="map", channels=1, freq=1, time_pool=16),),
    embedding_dim=1,
)


def test_a_hundred_thousand_files(out, monkeypatch):
    """Memory and reads stay what they are for a few."""
    monkeypatch.setattr(journal, "_HELD_BYTES", 2**22)
    monkeypatch.setattr(journal, "_READ_BYTES", 4 * 500)
    opened, read = count_reads(monkeypatch)
    count = 100_000
    names = [f"{number}.wav" for number in range(count)]
    with open_job(out, TINY, {}) as job:
        vector = np.zeros((1, 1), np.float32)
        for number, name in enumerate(names):
            if number % 4:
                job.fail(name, "bad")
                continue
            vector[0] = number
            job.add(name, [Row(path=name, end=1.0, duration=0.0)], vector)
            job.finish(name, duration=1.0, partial=False)
            assert len(job._journal._held) <= 2**22 // 200
        assert not job._versions
        assert not job._rows
        job.flush()
        tracemalloc.start()
        job.complete(names)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert opened == list(range(1, len(opened) + 1))
    assert 2 < len(opened) < 10
    assert sum(read) == count // 4
    assert len(read) <= count // 4 // 500 + 2 * len(opened)
    assert peak < 2**20
    table = pq.read_table(out, columns=["embedding"])
    values = table["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(values, np.arange(0, count, 4))


def count_reads(monkeypatch):
    """The parts that are opened, and the rows that are read."""
    opened, read = [], []
    open_part, read_rows = part_module.PartReader._open_part, part_module.PartReader.read

    def opening(self, number):
        opened.append(number)
        return open_part(self, number)

    def reading(self, place, keys):
        read.append(place.rows)
        return read_rows(self, place, keys)

    monkeypatch.setattr(part_module.PartReader, "_open_part", opening)
    monkeypatch.setattr(part_module.PartReader, "read", reading)
    return opened, read
