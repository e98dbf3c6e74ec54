"""Pages read without pyarrow, against pyarrow, over what writers do."""

import mmap
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import FusionEngineError
from fusion_engine._parquet_column import EmbeddingColumn
from fusion_engine._parquet_pages import is_plain, plain_pages
from fusion_engine.output import Row
from fusion_engine.table_reader import open_table


def write(path, *, rows=1000, dim=7, value="halffloat", nullable=True, nulls=False, **options):
    """A column of lists, as pyarrow writes it, after one of paths."""
    kinds = {"halffloat": pa.float16(), "float": pa.float32(), "double": pa.float64()}
    values = (
        np.random.default_rng(0).standard_normal(rows * dim).astype(kinds[value].to_pandas_dtype())
    )
    inner = pa.field("element", kinds[value], nullable=nullable)
    mask = np.zeros(rows * dim, bool)
    mask[5] = nulls
    flat = pa.array(values, mask=mask if nulls else None)
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(inner, dim))
    schema = pa.schema(
        [
            pa.field("path", pa.string()),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("embedding", vectors.type, nullable=nullable),
        ]
    )
    columns = [pa.array([f"{n}.wav" for n in range(rows)]), pa.array(np.zeros(rows))]
    table = pa.table([*columns, pa.array(np.ones(rows)), vectors], schema=schema)
    pq.write_table(table, path, **{"compression": "none", "use_dictionary": False, **options})
    return values.reshape(rows, dim)


PLAIN = {
    "as we do": {"version": "2.6", "write_page_checksum": True},
    "without checksums": {},
    "small pages": {"data_page_size": 100, "write_batch_size": 16},
    "many groups": {"row_group_size": 130, "write_page_checksum": True},
    "pages of version 2": {"data_page_version": "2.0", "write_page_checksum": True},
    "required": {"nullable": False},
    "no statistics": {"write_statistics": False},
    "page index": {"write_page_index": True, "data_page_size": 500},
}
OTHERS = {
    "compressed": {"compression": "zstd"},
    "dictionary": {"use_dictionary": True},
    "split": {"use_byte_stream_split": ["embedding.list.element"], "value": "float"},
}


@pytest.mark.parametrize("value", ["halffloat", "float", "double"])
@pytest.mark.parametrize("how", PLAIN)
def test_plain_pages(how, value, tmp_path):
    expected = write(tmp_path / "x.parquet", value=value, **PLAIN[how])
    column = EmbeddingColumn([tmp_path / "x.parquet"])
    assert column.takes
    assert (column.dim, column.dtype) == (7, expected.dtype)
    for rows in (1, 90, 10_000):
        blocks = list(column.blocks(rows))
        assert max(map(len, blocks)) <= rows
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    chosen = np.array([999, 0, 129, 130, 131, 500, 0])
    np.testing.assert_array_equal(column.take(chosen), expected[chosen])


@pytest.mark.parametrize("how", OTHERS)
def test_other_encodings_are_pyarrows(how, tmp_path):
    expected = write(tmp_path / "x.parquet", **OTHERS[how])
    column = EmbeddingColumn([tmp_path / "x.parquet"])
    assert not column.takes
    np.testing.assert_array_equal(np.concatenate(list(column.blocks(90))), expected)
    table = open_table(tmp_path / "x.parquet")
    np.testing.assert_array_equal(table.take([3, 999, 3]), expected[[3, 999, 3]])


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}], ids=str)
def test_a_missing_value_is_refused(options, tmp_path):
    write(tmp_path / "x.parquet", nulls=True, **options)
    table = open_table(tmp_path / "x.parquet")
    with pytest.raises(FusionEngineError, match=r"nulls|not finite"):
        list(table.blocks())
    with pytest.raises(FusionEngineError, match=r"nulls|not finite"):
        table.take([0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small file, its bytes, and what its metadata say of the embeddings."""
    path = tmp_path_factory.mktemp("pages") / "x.parquet"
    write(path, rows=50, write_page_checksum=True, data_page_size=200, write_batch_size=32)
    chunk = pq.read_metadata(path).row_group(0).column(3)
    assert is_plain(chunk)
    return path, path.read_bytes(), chunk


@given(data=st.data())
def test_a_changed_byte_is_an_error_or_changes_nothing(data, written):
    path, content, chunk = written
    expected = np.concatenate(list(EmbeddingColumn([path]).blocks(50)))
    first = chunk.data_page_offset
    at = data.draw(st.integers(first, first + chunk.total_compressed_size - 1))
    change = data.draw(st.integers(1, 255))
    changed = path.with_name("y.parquet")
    changed.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    try:
        found = np.concatenate(list(EmbeddingColumn([changed]).blocks(50)))
    except ValueError:
        return
    # A checksum that is no longer there checks nothing.
    assert found.shape == expected.shape
    assert (found != expected).sum() <= 1


@given(content=st.binary(min_size=1, max_size=60))
def test_any_bytes_end(content, written):
    _, _, chunk = written
    data = mmap.mmap(-1, chunk.data_page_offset + len(content))
    data[chunk.data_page_offset :] = content
    with suppress(ValueError):
        for page in plain_pages(data, chunk):
            page.values(np.dtype(np.float16))


def test_a_row_of_ours_is_where_it_was_put(tmp_path):
    """By the package's own writer: groups and pages that cut embeddings."""
    from .retrieval.tables import write_table

    embeddings = np.random.default_rng(0).standard_normal((3000, 6000)).astype(np.float16)
    rows = [Row(path="x", start=n, end=n + 1.0, duration=3e3) for n in range(3000)]
    path = write_table(tmp_path / "x.parquet", embeddings, rows=rows, dtype="float16")
    assert pq.read_metadata(path).num_row_groups == 3
    table = open_table(path)
    np.testing.assert_array_equal(np.concatenate(list(table.blocks())), embeddings)
    chosen = [2999, 1397, 1398, 1399, 0, 2796]
    np.testing.assert_array_equal(table.take(chosen), embeddings[chosen])
