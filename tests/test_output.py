import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion_engine import FusionEngineError
from fusion_engine import output as output_module
from fusion_engine.frontend import FRONTENDS
from fusion_engine.output import Failures, Row, open_writer, read_job, remove_output
from fusion_engine.spec import LayerSpec, Spec, WeightsSource

SUFFIXES = [".parquet", ".npz", ".csv"]
TIMES = ["start", "end", "duration"]
FLAGS = ["partial", "silent", "clipped_scale"]
DIM = 16
SPEC = Spec(
    model="cnn14_16k",
    layers=(LayerSpec(number=1, kind="map", channels=2, freq=8, time_pool=16),),
    embedding_dim=DIM,
    frontend=FRONTENDS["panns_16k"],
    frames_per_step=32,
    min_frames=32,
    max_frames=6001,
    weights=WeightsSource(source="random:0", sha256="0" * 64),
)
PATHS = [
    "plain.wav",
    'quotes ", commas and; semicolons.wav',
    "new\nline\r.wav",
    "ünïcödé 音.wav",
    "",
    "'=1+1",
]
DURATIONS = [1.0, 1 / 3, 1e-5, 3600.123456789, 0.1, 5e300]


ROWS = [
    Row(
        path=path,
        start=n,
        end=n + 0.5,
        duration=duration,
        partial=n % 2 == 0,
        silent=n == 3,
        clipped_scale=n > 3,
    )
    for n, (path, duration) in enumerate(zip(PATHS, DURATIONS, strict=True))
]


def rows_of(paths, seconds=1.0):
    return [Row(path=path, end=seconds, duration=seconds) for path in paths]


def embeddings(rows, dim=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def read(path):
    """Paths, times, embeddings and spec, by somebody else's reader."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        values = table["embedding"].combine_chunks()
        vectors = values.values.to_numpy().reshape(len(table), values.type.list_size)
        spec = table.schema.metadata[b"fusion_engine"].decode()
        assert table.schema.metadata[b"fusion_engine_space"].decode() == Spec.from_json(spec).space
        times = zip(*(table[name].to_pylist() for name in TIMES), strict=True)
        return table["path"].to_pylist(), list(times), vectors, spec
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            assert sorted(archive.files) == sorted(
                ["paths", "starts", "ends", "durations", *FLAGS, "embeddings", "spec", "space"]
            )
            assert str(archive["space"]) == Spec.from_json(str(archive["spec"])).space
            return (
                archive["paths"].tolist(),
                list(zip(*(archive[f"{name}s"].tolist() for name in TIMES), strict=True)),
                archive["embeddings"],
                str(archive["spec"]),
            )
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    dim = len(header) - 7
    assert header == ["path", "start", "end", "duration", *FLAGS, *(f"e{i}" for i in range(dim))]
    vectors = np.array([row[7:] for row in rows], dtype=np.float64).astype(np.float32)
    spec = path.with_name(f"{path.name}.spec.json").read_text(encoding="utf-8")
    return (
        [row[0] for row in rows],
        [tuple(map(float, row[1:4])) for row in rows],
        vectors.reshape(-1, dim),
        spec.removesuffix("\n"),
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path, suffix):
    path, rows = tmp_path / f"out{suffix}", embeddings(len(PATHS))
    with open_writer(path, SPEC) as writer:
        for part in (slice(0, 1), slice(1, 4), slice(4, 4), slice(4, 6)):
            buffer = rows[part].copy()
            writer.write(ROWS[part], buffer)
            buffer[:] = np.nan  # the caller may use its buffer again
    names, times, vectors, spec = read(path)
    assert names == PATHS
    assert times == [(n, n + 0.5, duration) for n, duration in enumerate(DURATIONS)]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, rows)
    assert Spec.from_json(spec) == SPEC


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows(tmp_path, suffix):
    with open_writer(tmp_path / f"out{suffix}", SPEC):
        pass
    names, times, vectors, _ = read(tmp_path / f"out{suffix}")
    assert names == times == []
    assert vectors.shape == (0, DIM)


def test_parquet_columns(tmp_path):
    with open_writer(tmp_path / "out.parquet", SPEC) as writer:
        writer.write(rows_of("a"), embeddings(1))
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["path", "start", "end", "duration", *FLAGS, "embedding"]
    flags = [pa.bool_()] * 3
    assert schema.types == [pa.string(), *[pa.float64()] * 3, *flags, pa.list_(pa.float32(), DIM)]


def flags(path):
    """The columns of flags, and of channels where there is one, by somebody else's reader."""
    names = ["channel", *FLAGS]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in names if name in archive.files}
            assert all(array.dtype == np.bool_ for name, array in found.items() if name in FLAGS)
            return {name: array.tolist() for name, array in found.items()}
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    found = {name: table[name] for name in names if name in table.column_names}
    assert all(column.type == pa.bool_() for name, column in found.items() if name in FLAGS)
    return {name: column.to_pylist() for name, column in found.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flags_are_truth_values_for_every_reader(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    rows = [replace(row, path=f"{n}.wav") for n, row in enumerate(ROWS)]
    with open_writer(path, SPEC) as writer:
        writer.write(rows, embeddings(6))
    assert flags(path) == {
        "partial": [True, False, True, False, True, False],
        "silent": [False, False, False, True, False, False],
        "clipped_scale": [False, False, False, False, True, True],
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_channels(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with open_writer(path, SPEC, channels=True) as writer:
        with pytest.raises(ValueError, match="expected a channel in every row"):
            writer.write([Row(path="a", end=1.0, duration=1.0)], embeddings(1))
        for channel in (1, 2):
            row = Row(path="a", channel=channel, end=1.0, duration=1.0, silent=channel == 2)
            writer.write([row], embeddings(1))
    assert flags(path) == {
        "channel": [1, 2],
        "partial": [False, False],
        "silent": [False, True],
        "clipped_scale": [False, False],
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_output_is_removed_with_what_belongs_to_it(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    assert not remove_output(path)
    with open_writer(path, SPEC) as writer:
        writer.write(rows_of("a"), embeddings(1))
    (tmp_path / "other").touch()
    assert remove_output(path)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
    (tmp_path / f"link{suffix}").symlink_to(path)
    path.touch()
    assert remove_output(tmp_path / f"link{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"link{suffix}", "other"]


def test_parquet_is_written_as_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr(output_module, "_ROW_GROUP_BYTES", 100 * 4 * DIM)
    rows, sizes = embeddings(1_030), []
    with open_writer(tmp_path / "out.parquet", SPEC) as writer:
        for start in range(0, 1_030, 10):
            part = slice(start, start + 10)
            writer.write(rows_of(f"{i}.wav" for i in range(start, start + 10)), rows[part])
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    # All but the rows of the group that is not full are on disk.
    assert sizes[-1] > 1_000 * 4 * DIM
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [100] * 10 + [30]
    names, _, vectors, _ = read(tmp_path / "out.parquet")
    assert names == [f"{i}.wav" for i in range(1_030)]
    np.testing.assert_array_equal(vectors, rows)


def test_parquet_does_not_show_how_rows_were_put_together(tmp_path, monkeypatch):
    count = 50_000
    # Groups of several pages, a page is 1 MiB.
    monkeypatch.setattr(output_module, "_ROW_GROUP_BYTES", 40_000 * 4 * DIM)
    rows, clips = embeddings(count), rows_of(f"{i}.wav" for i in range(count))
    for name, step in (("a", count), ("b", 7_001), ("c", 997)):
        with open_writer(tmp_path / f"{name}.parquet", SPEC) as writer:
            for start in range(0, count, step):
                part = slice(start, start + step)
                writer.write(clips[part], rows[part])
    whole = (tmp_path / "a.parquet").read_bytes()
    assert (tmp_path / "b.parquet").read_bytes() == whole
    assert (tmp_path / "c.parquet").read_bytes() == whole


@given(
    rows=hnp.arrays(np.uint32, (3, DIM), elements=st.integers(0, 2**32 - 1)).map(
        lambda bits: bits.view(np.float32)
    )
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_finite_float32_reads_back_bit_equal(tmp_path_factory, suffix, rows):
    rows = np.where(np.isfinite(rows), rows, np.float32(0))
    path = tmp_path_factory.mktemp("bits") / f"out{suffix}"
    with open_writer(path, SPEC) as writer:
        writer.write(rows_of("abc"), rows)
    np.testing.assert_array_equal(read(path)[2].view(np.uint32), rows.view(np.uint32))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_names_that_are_no_unicode(tmp_path, suffix):
    name = os.fsdecode(b"caf\xe9.wav")
    path = tmp_path / f"out{suffix}"
    with open_writer(path, SPEC) as writer, Failures(path) as failures:
        writer.write(rows_of([name]), embeddings(1))
        failures.add(name, f"{name}: no audio")
    assert read(path)[0] == ["caf\\udce9.wav"]
    assert json.loads(failures.path.read_text())["path"] == "caf\\udce9.wav"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_a_failed_run_changes_nothing(tmp_path, suffix, error, rows):
    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    errors = tmp_path / f"out{suffix}.errors.jsonl"
    errors.write_text("old")

    def run():
        with Failures(path) as failures, open_writer(path, SPEC) as writer:
            failures.add("x.wav", "no audio")
            if rows:
                writer.write(rows_of(["a"] * rows), embeddings(rows))
            raise error

    with pytest.raises(error):
        run()
    assert sorted(tmp_path.iterdir()) == [path, errors]
    assert path.read_text() == errors.read_text() == "old"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("limit", [0, 3, 1_000, 40_000])
def test_a_full_disk(tmp_path, suffix, limit):
    """The limit on file sizes ends a write as a full disk does, in a process of its own."""
    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    program = f"""
import resource
import numpy as np
from fusion_engine import FusionEngineError, Spec
from fusion_engine.output import Failures, Row, open_writer, read_job, remove_output
spec = Spec.from_json({SPEC.to_json()!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with open_writer({str(path)!r}, spec) as writer:
        for _ in range(10):
            row = Row(path="a", end=1.0, duration=1.0)
            writer.write([row] * 100, np.full((100, {DIM}), np.pi, np.float32))
except FusionEngineError as error:
    print(error)
try:
    with Failures({str(path)!r}) as failures:
        for _ in range(1_000):
            failures.add("x.wav", "a reason of some length for a file to fail")
except FusionEngineError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    reason = "File too large; free some space, or choose a folder on another disk"
    assert done.stdout.splitlines() == [
        f"cannot write {path}: {reason}",
        f"cannot write {path}.errors.jsonl: {reason}",
    ]
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_is_not_there(tmp_path, suffix):
    path = tmp_path / "no" / f"out{suffix}"
    with (
        pytest.raises(FusionEngineError, match="No such file or directory; create the folder"),
        open_writer(path, SPEC),
    ):
        pass


@pytest.mark.parametrize("name", ["out", "out.txt", "out.parquet.gz", ".csv"])
def test_other_suffixes(tmp_path, name):
    with (
        pytest.raises(ValueError, match=r"expected \.parquet, \.npz, \.csv"),
        open_writer(tmp_path / name, SPEC),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_too_many_clips_for_npz(tmp_path, monkeypatch):
    assert output_module.NPZ_MAX_CLIPS == 100_000
    monkeypatch.setattr(output_module, "NPZ_MAX_CLIPS", 10)

    def write(clips, rows):
        with open_writer(tmp_path / "out.npz", SPEC, clips=clips) as writer:
            for _ in range(rows):
                writer.write(rows_of("a"), embeddings(1))

    message = r"11 clips are too many for \.npz.* at most 10; write a \.parquet file"
    with pytest.raises(FusionEngineError, match=message):
        write(clips=11, rows=0)
    with pytest.raises(FusionEngineError, match=message):
        write(clips=None, rows=11)
    assert list(tmp_path.iterdir()) == []
    write(clips=10, rows=10)
    with open_writer(tmp_path / "out.parquet", SPEC, clips=11):
        pass


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("row", "vectors"),
    [
        (Row(path="a", end=1.0, duration=1.0), embeddings(2)),
        (Row(path="a", end=1.0, duration=1.0), embeddings(1, DIM + 1)),
        (Row(path="a", end=1.0, duration=1.0), embeddings(1)[0]),
        (Row(path="a", end=1.0, duration=1.0), embeddings(1).astype(np.float64)),
        (Row(path="a", end=1.0, duration=1.0, channel=1), embeddings(1)),
    ],
    ids=["rows", "dim", "1-D", "float64", "channel"],
)
def test_rows_that_do_not_fit(tmp_path, suffix, row, vectors):
    with (
        pytest.raises(ValueError, match="expected"),
        open_writer(tmp_path / f"out{suffix}", SPEC) as writer,
    ):
        writer.write([row], vectors)
    assert list(tmp_path.iterdir()) == []


def test_the_paper_s_dimension(tmp_path):
    layers = (
        LayerSpec(number=3, kind="map", channels=256, freq=8, time_pool=4),
        LayerSpec(number=6, kind="map", channels=2048, freq=2),
    )
    spec, rows = replace(SPEC, layers=layers, embedding_dim=6144), embeddings(40, 6144)
    for suffix in SUFFIXES:
        with open_writer(tmp_path / f"out{suffix}", spec) as writer:
            writer.write(rows_of(["a"] * 40), rows)
        np.testing.assert_array_equal(read(tmp_path / f"out{suffix}")[2], rows)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_float16(tmp_path, suffix):
    path, rows = tmp_path / f"out{suffix}", embeddings(3)
    rows[0, :3] = [65519.9, -1e-8, np.nextafter(np.float32(1), np.float32(2))]
    with open_writer(path, SPEC, dtype="float16") as writer:
        writer.write(rows_of("abc"), rows)
    vectors = read(path)[2]
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, rows.astype(np.float16))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_beyond_float16(tmp_path, suffix):
    rows = embeddings(3)
    rows[1, 4] = 65520
    message = r"b: the embedding of 0 s to 1 s holds 65520, expected at most 65504"
    with (
        pytest.raises(FusionEngineError, match=message),
        open_writer(tmp_path / f"out{suffix}", SPEC, dtype="float16") as writer,
    ):
        writer.write(rows_of("abc"), rows)
    assert list(tmp_path.iterdir()) == []


def test_dtypes_that_are_not_written(tmp_path):
    for name, dtype, message in (
        ("out.csv", "float16", r"write \.parquet or \.npz for float16"),
        ("out.npz", "float64", "expected float32 or float16"),
    ):
        with (
            pytest.raises(ValueError, match=message),
            open_writer(tmp_path / name, SPEC, dtype=dtype),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_job_goes_along(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    assert read_job(path) is None
    for job in ('{"settings":{}}', None):
        with open_writer(path, SPEC, job=job) as writer:
            writer.write(rows_of("a"), embeddings(1))
        assert read_job(path) == job
    path.write_text("something else")
    assert read_job(path) is None
    assert remove_output(path)
    assert list(tmp_path.iterdir()) == []


def test_failures(tmp_path):
    with Failures(tmp_path / "out.csv") as failures:
        failures.add("a.wav", 'a.wav: "quoted"\nreason')
        failures.add("ü.wav", "empty")
        assert not failures.path.exists()
    assert failures.count == 2
    assert failures.path == tmp_path / "out.csv.errors.jsonl"
    lines = failures.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"path": "a.wav", "reason": 'a.wav: "quoted"\nreason'},
        {"path": "ü.wav", "reason": "empty"},
    ]


def test_failures_of_an_earlier_run_do_not_survive(tmp_path):
    with Failures(tmp_path / "out.npz") as failures:
        failures.add("a.wav", "empty")
    assert failures.path.exists()
    with Failures(tmp_path / "out.npz") as failures:
        pass
    assert failures.count == 0
    assert list(tmp_path.iterdir()) == []
