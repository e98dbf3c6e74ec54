from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion_engine import FusionEngineError, table_reader
from fusion_engine.output import Row, open_writer
from fusion_engine.table_reader import open_table

from .test_output import DIM, PATHS, SPEC

RNG = np.random.default_rng(3)
EMBEDDINGS = RNG.standard_normal((len(PATHS), DIM)).astype(np.float32)
KINDS = [
    (".parquet", "float32"),
    (".parquet", "float16"),
    (".npz", "float32"),
    (".npz", "float16"),
    (".csv", "float32"),
]


def rows(*, channels=False):
    return [
        Row(path=path, start=n / 3, end=n + 1.0, channel=n % 2 if channels else None, duration=9.0)
        for n, path in enumerate(PATHS)
    ]


def write(path, *, embeddings=EMBEDDINGS, dtype="float32", channels=False, spec=SPEC):
    with open_writer(path, spec, channels=channels, dtype=dtype) as writer:
        if len(embeddings):
            writer.write(rows(channels=channels)[: len(embeddings)], embeddings)
    return path


def damage(path, embedding):
    """Change a bit of it."""
    data = bytearray(path.read_bytes())
    data[data.index(embedding.tobytes())] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_what_was_written_is_read(suffix, dtype, channels, tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 4 * 4 * DIM)
    table = open_table(write(tmp_path / f"x{suffix}", dtype=dtype, channels=channels))
    assert table.rows.paths == PATHS
    np.testing.assert_array_equal(table.rows.start, np.arange(len(PATHS)) / 3)
    np.testing.assert_array_equal(table.rows.end, np.arange(len(PATHS)) + 1.0)
    if channels:
        np.testing.assert_array_equal(table.rows.channels, np.arange(len(PATHS)) % 2)
    else:
        assert table.rows.channels is None
    assert table.spec == SPEC
    assert table.space == SPEC.space
    assert (table.dim, table.dtype) == (DIM, dtype)
    blocks = [block.copy() for block in table.blocks()]
    if suffix != ".csv":  # read by the megabyte of text
        assert max(map(len, blocks)) <= table.block_rows == 16 // table.dtype.itemsize
    assert {block.dtype for block in blocks} == {np.dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate(blocks), EMBEDDINGS.astype(dtype))


def test_a_folder_of_parts_is_one_table(tmp_path):
    write(tmp_path / "part-000000.parquet")
    write(tmp_path / "part-000001.parquet", embeddings=EMBEDDINGS[:2])
    table = open_table(tmp_path)
    assert table.rows.paths == PATHS + PATHS[:2]
    np.testing.assert_array_equal(
        np.concatenate(list(table.blocks())), np.concatenate([EMBEDDINGS, EMBEDDINGS[:2]])
    )


def test_parts_of_two_spaces_are_refused(tmp_path):
    write(tmp_path / "part-000000.parquet")
    write(tmp_path / "part-000001.parquet", spec=replace(SPEC, frames_per_step=16))
    with pytest.raises(FusionEngineError, match=r"part-000001.parquet: .* another embedding space"):
        open_table(tmp_path)


def test_a_table_without_a_spec(tmp_path):
    table = pq.read_table(write(tmp_path / "x.parquet"))
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "y.parquet")
    bare = open_table(tmp_path / "y.parquet")
    assert (bare.spec, bare.space) == (None, None)
    np.testing.assert_array_equal(np.concatenate(list(bare.blocks())), EMBEDDINGS)


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_a_value_that_is_not_finite_is_named(suffix, dtype, tmp_path):
    embeddings = EMBEDDINGS.copy()
    embeddings[4, 7] = np.nan
    path = write(tmp_path / f"x{suffix}", embeddings=embeddings, dtype=dtype)
    with pytest.raises(FusionEngineError, match=r"embedding of row 4 .* is not finite"):
        list(open_table(path).blocks())


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_a_table_without_rows(suffix, tmp_path):
    path = write(tmp_path / f"x{suffix}", embeddings=EMBEDDINGS[:0])
    with pytest.raises(FusionEngineError, match="has no rows"):
        open_table(path)
    (tmp_path / f"x{suffix}.errors.jsonl").touch()
    with pytest.raises(FusionEngineError, match=r"no rows; the reasons .*errors\.jsonl"):
        open_table(path)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv", ".txt"])
def test_what_is_no_table(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(FusionEngineError, match="no such table"):
        open_table(path)
    path.write_bytes(b"PK\3\4 something else")
    with pytest.raises(FusionEngineError, match=r"x\..*not a table that `fusion-engine embed`"):
        open_table(path)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_table_that_was_cut(suffix, tmp_path):
    path = write(tmp_path / f"x{suffix}")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(FusionEngineError, match="not a table"):
        list(open_table(path).blocks())


def test_a_damaged_page_is_found(tmp_path):
    path = write(tmp_path / "x.parquet")
    damage(path, EMBEDDINGS[2])
    with pytest.raises(FusionEngineError, match="not a table"):
        list(open_table(path).blocks())


def test_lists_of_any_size_are_refused(tmp_path):
    columns = {"path": ["a"], "start": [0.0], "end": [1.0], "embedding": [[1.0, 2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(FusionEngineError, match="expected a list of one fixed size"):
        open_table(tmp_path / "x.parquet")


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_some_rows(suffix, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 4 * 4 * DIM)
    table = open_table(write(tmp_path / f"x{suffix}", dtype=dtype))
    chosen = [4, 0, 4, len(PATHS) - 1]
    taken = table.take(chosen)
    assert taken.dtype == dtype
    np.testing.assert_array_equal(taken, EMBEDDINGS.astype(dtype)[chosen])
    assert table.take([]).shape == (0, DIM)
    for wrong in ([-1], [0, len(PATHS)]):
        with pytest.raises(IndexError, match="expected 0 to"):
            table.take(wrong)


def test_some_rows_of_a_folder(tmp_path):
    write(tmp_path / "part-000000.parquet")
    write(tmp_path / "part-000001.parquet", embeddings=EMBEDDINGS[:2])
    both = np.concatenate([EMBEDDINGS, EMBEDDINGS[:2]])
    chosen = [len(PATHS) + 1, 0, len(PATHS), len(PATHS) - 1]
    np.testing.assert_array_equal(open_table(tmp_path).take(chosen), both[chosen])


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_a_row_that_is_not_finite_is_named(suffix, tmp_path):
    embeddings = EMBEDDINGS.copy()
    embeddings[4, 7] = -np.inf
    table = open_table(write(tmp_path / f"x{suffix}", embeddings=embeddings))
    table.take([3])
    with pytest.raises(FusionEngineError, match=r"embedding of row 4 .* is not finite"):
        table.take([3, 4])


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_a_fingerprint_is_of_all_that_is_searched(suffix, dtype, tmp_path):
    first = open_table(write(tmp_path / f"x{suffix}", dtype=dtype)).fingerprint()
    assert first == open_table(write(tmp_path / f"y{suffix}", dtype=dtype)).fingerprint()
    changed = EMBEDDINGS.copy()
    changed[3, 0] /= 2
    others = [
        write(tmp_path / f"0{suffix}", dtype=dtype, embeddings=changed),
        write(tmp_path / f"1{suffix}", dtype=dtype, embeddings=EMBEDDINGS[:-1]),
        write(tmp_path / f"2{suffix}", dtype=dtype, channels=True),
        write(tmp_path / f"3{suffix}", dtype=dtype, spec=replace(SPEC, frames_per_step=16)),
    ]
    assert first not in {open_table(path).fingerprint() for path in others}


ENCODINGS = {
    "as we do": {"write_page_checksum": True},
    "small pages": {"data_page_size": 100, "write_batch_size": 16},
    "many groups": {"row_group_size": 130},
    "pages of version 2": {"data_page_version": "2.0"},
    "compressed": {"compression": "zstd"},
    "dictionary": {"use_dictionary": True},
}


def write_as(path, embeddings, *, mask=None, **options):
    """With pyarrow alone: any table with these columns."""
    count, dim = embeddings.shape
    values = pa.array(embeddings.ravel(), mask=mask)
    columns = {
        "path": [f"{n}.wav" for n in range(count)],
        "start": np.zeros(count),
        "end": np.ones(count),
        "embedding": pa.FixedSizeListArray.from_arrays(values, dim),
    }
    options = {"compression": "none", "use_dictionary": False} | options
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("how", ENCODINGS)
def test_parquet_of_others(how, dtype, tmp_path, monkeypatch):
    """Blocks and rows; row groups are read alone, and in blocks where they are large."""
    embeddings = RNG.standard_normal((1000, 7)).astype(dtype)
    table = open_table(write_as(tmp_path / "x.parquet", embeddings, **ENCODINGS[how]))
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 90 * 7 * table.dtype.itemsize)
    blocks = list(table.blocks())
    assert max(map(len, blocks)) == 90
    np.testing.assert_array_equal(np.concatenate(blocks), embeddings)
    parts = [np.concatenate(list(part)) for part in table.parts()]
    assert [len(part) for part in parts] == ([130] * 7 + [90] if how == "many groups" else [1000])
    chosen = [999, 0, 129, 130, 131, 500, 0]
    np.testing.assert_array_equal(table.take(chosen), embeddings[chosen])


def test_only_row_groups_that_are_asked_for_are_read(tmp_path):
    """A NaN in another one is not seen, nor is damage."""
    embeddings = RNG.standard_normal((300, DIM)).astype(np.float32)
    path = write_as(
        tmp_path / "x.parquet", embeddings, row_group_size=100, write_page_checksum=True
    )
    damage(path, embeddings[150])
    table = open_table(path)
    np.testing.assert_array_equal(table.take([299, 7]), embeddings[[299, 7]])
    with pytest.raises(FusionEngineError, match="not a table"):
        table.take([100])


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}], ids=str)
def test_a_missing_value_is_refused(options, tmp_path):
    embeddings = RNG.standard_normal((20, 7)).astype(np.float16)
    table = open_table(
        write_as(tmp_path / "x.parquet", embeddings, mask=np.arange(140) == 5, **options)
    )
    for read in (lambda: list(table.blocks()), lambda: table.take([0])):
        with pytest.raises(FusionEngineError, match=r"embedding of row 0 .* not finite"):
            read()


def test_a_missing_embedding_is_refused(tmp_path):
    path = write_as(tmp_path / "x.parquet", EMBEDDINGS)
    table = pq.read_table(path)
    column = pa.array([None, *EMBEDDINGS[1:].tolist()], table["embedding"].type)
    pq.write_table(table.set_column(3, "embedding", column), path)
    count = len(EMBEDDINGS)
    with pytest.raises(FusionEngineError, match=f"{count - 1} embeddings of {count} rows; the fi"):
        list(open_table(path).blocks())


@pytest.mark.parametrize("how", ENCODINGS)
def test_a_fingerprint_of_others_parquet(how, tmp_path):
    """Also in the second row group."""
    embeddings, options = RNG.standard_normal((300, 7)), ENCODINGS[how]
    moved = embeddings[[*range(200), *range(299, 199, -1)]]
    found = [
        open_table(write_as(tmp_path / f"{n}.parquet", given, **options)).fingerprint()
        for n, given in enumerate([embeddings, embeddings, moved])
    ]
    assert found[0] == found[1] != found[2]


def test_a_fingerprint_is_of_the_start_of_each_row_group(tmp_path):
    """And of its extremes, which are in the footer."""
    embeddings = RNG.standard_normal((20_000, 7)).astype(np.float32)
    path = write_as(tmp_path / "x.parquet", embeddings, row_group_size=10_000)
    first = open_table(path).fingerprint()
    seen = []
    for row in (9_000, 10_003):
        write_as(path, embeddings, row_group_size=10_000)
        damage(path, embeddings[row])
        seen.append(open_table(path).fingerprint() != first)
    assert seen == [False, True]
