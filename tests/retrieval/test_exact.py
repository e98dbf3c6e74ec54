"""Exact search, against NumPy in FP64, scikit-learn and usearch's own exact search."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.neighbors import NearestNeighbors

import fusion_engine as fe
from fusion_engine import table_reader
from fusion_engine.retrieval import exact
from fusion_engine.retrieval.metrics import Scorer, single
from fusion_engine.table_reader import open_table

from .tables import clustered, write_table

DIM = 48
METRICS = ["cosine", "l2"]


def brute_force(embeddings, queries, k, metric):
    """Rows and values in FP64; of equal ones the lower number first."""
    x, q = embeddings.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(x, axis=1)[None] * np.linalg.norm(q, axis=1)[:, None]
        values = np.divide(q @ x.T, norms, out=np.zeros((len(q), len(x))), where=norms > 0)
        order = np.argsort(-np.round(values, 12), axis=1, kind="stable")[:, :k]
    else:
        values = np.linalg.norm(x[None] - q[:, None], axis=2)
        order = np.argsort(np.round(values / values.max(), 10), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(values, order, axis=1)


def values_of(matches, metric):
    name = "similarity" if metric == "cosine" else "distance"
    return [[getattr(match, name) for match in of_one] for of_one in matches]


def rows_of(matches):
    return [[match.row for match in of_one] for of_one in matches]


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks and pieces of a few rows, which are not whole multiples of each other."""
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 4 * DIM * 37)
    monkeypatch.setattr(exact, "_PIECE_VALUES", 11 * DIM)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".parquet", "float32"),
        (".parquet", "float16"),
        (".npz", "float32"),
        (".npz", "float16"),
        (".csv", "float32"),
    ],
)
def test_it_is_brute_force(suffix, dtype, metric, small_pieces, tmp_path):
    embeddings = clustered(400, DIM).astype(dtype)
    table = write_table(tmp_path / f"x{suffix}", embeddings, dtype=dtype)
    queries = clustered(9, DIM, seed=1)
    found = fe.search(table, queries, 7, metric=metric)
    rows, values = brute_force(embeddings, queries, 7, metric)
    assert rows_of(found) == rows.tolist()
    np.testing.assert_allclose(values_of(found, metric), values, rtol=1e-12)
    match = found[0][0]
    assert (match.path, match.start, match.end) == (f"{match.row}.wav", 0.0, 1.0)
    assert match.channel is None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "count"), [(1, 1), (255, 33), (257, 70), (700, 2)])
def test_sizes_that_are_cut_and_padded(dim, count, metric, tmp_path):
    embeddings, queries = clustered(75, dim), clustered(count, dim, seed=1)
    table = write_table(tmp_path / "x.parquet", embeddings)
    rows, values = brute_force(embeddings, queries, 3, metric)
    found = fe.search(table, queries, 3, metric=metric)
    assert rows_of(found) == rows.tolist()
    np.testing.assert_allclose(values_of(found, metric), values, rtol=1e-9)
    low, high = Scorer(queries.astype(np.float64), metric).bounds(embeddings)
    nearest = values if metric == "cosine" else -(values**2)
    shown = np.arange(count)[:, None]
    assert (low.T[shown, rows] <= nearest + 1e-12).all()
    assert (nearest - 1e-12 <= high.T[shown, rows]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_scikit_learns(metric, tmp_path):
    embeddings, queries = clustered(500, DIM), clustered(20, DIM, seed=1)
    table = write_table(tmp_path / "x.parquet", embeddings)
    peer = NearestNeighbors(
        n_neighbors=10, algorithm="brute", metric="cosine" if metric == "cosine" else "euclidean"
    ).fit(embeddings.astype(np.float64))
    distances, rows = peer.kneighbors(queries.astype(np.float64))
    found = fe.search(table, queries, 10, metric=metric)
    assert rows_of(found) == rows.tolist()
    expected = 1 - distances if metric == "cosine" else distances
    np.testing.assert_allclose(values_of(found, metric), expected, rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_usearchs_exact_search(metric, tmp_path):
    from usearch.index import MetricKind
    from usearch.index import search as usearch_search

    embeddings, queries = clustered(500, DIM), clustered(20, DIM, seed=1)
    table = write_table(tmp_path / "x.parquet", embeddings)
    kind = MetricKind.Cos if metric == "cosine" else MetricKind.L2sq
    peer = usearch_search(embeddings, queries, 10, kind, exact=True)
    found = fe.search(table, queries, 10, metric=metric)
    assert rows_of(found) == peer.keys.tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
def test_equal_rows_are_in_order_whatever_the_blocks(size, metric, tmp_path, monkeypatch):
    """Also where FP32 cannot tell rows apart: their last bits differ."""
    rng = np.random.default_rng(0)
    close = np.float32(1) + rng.integers(-2, 3, (300, DIM)).astype(np.float32) * 2.0**-23
    embeddings = np.concatenate([close, close[::-1], close[:50], 2 * close[:20]])
    table = write_table(tmp_path / "x.parquet", embeddings)
    queries = close[:4] + np.float32(2.0**-22)
    expected = fe.search(table, queries, 30, metric=metric)
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 4 * DIM * size)
    monkeypatch.setattr(exact, "_PIECE_VALUES", DIM * size)
    found = fe.search(table, queries, 30, metric=metric)
    assert found == expected
    for matches, values in zip(found, values_of(found, metric), strict=True):
        order = [(v if metric == "l2" else -v, m.row) for v, m in zip(values, matches, strict=True)]
        assert order == sorted(order)
    _, values = brute_force(embeddings, queries, 30, metric)
    np.testing.assert_allclose(values_of(found, metric), values, atol=1e-14)


@given(
    rows=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.just(5)),
        elements=st.one_of(
            st.just(0.0),
            st.floats(-1, 1, width=32),
            st.floats(-(2.0**100), 2.0**100, width=32),
            st.floats(-(2.0**-100), 2.0**-100, width=32),
        ),
    ),
    query=hnp.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)),
    metric=st.sampled_from(METRICS),
)
def test_the_bounds_hold(rows, query, metric):
    scorer = Scorer(query[None], metric)
    low, high = scorer.bounds(rows)
    found = scorer.exact(0, rows)
    assert (low[:, 0] <= found).all()
    assert (found <= high[:, 0]).all()
    assert ((low == -np.inf) == (high == np.inf)).all()


def test_the_bounds_are_narrow():
    """Or all rows would be computed in FP64."""
    rows = clustered(1000, 512)
    low, high = Scorer(clustered(3, 512, seed=1).astype(np.float64), "cosine").bounds(rows)
    assert (high - low).max() < 8e-5


def test_a_score_does_not_depend_on_the_other_rows():
    rows = clustered(101, DIM)
    for metric in METRICS:
        scorer = Scorer(rows[:1].astype(np.float64), metric)
        together = scorer.exact(0, rows)
        alone = [scorer.exact(0, rows[n : n + 1])[0] for n in range(len(rows))]
        assert together.tolist() == alone


def test_every_half_becomes_the_same_single():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(1, -1)
    expected = halves.astype(np.float32)
    assert single(halves).tobytes() == expected.tobytes()


def test_zero_vectors(tmp_path):
    embeddings = np.array([[0, 0], [1, 0], [-1, 0], [0, 0]], np.float32)
    table = write_table(tmp_path / "x.parquet", embeddings)
    (found,) = fe.search(table, np.array([2.0, 0.0]), 4)
    assert rows_of([found]) == [[1, 0, 3, 2]]
    assert values_of([found], "cosine") == [[1.0, 0.0, 0.0, -1.0]]
    (found,) = fe.search(table, np.zeros(2), 4)
    assert [(match.row, match.similarity) for match in found] == [(n, 0.0) for n in range(4)]


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_values_of_any_size(scale, tmp_path):
    """Squares that FP32 has no place for."""
    embeddings = clustered(200, DIM) * np.float32(scale)
    table = write_table(tmp_path / "x.parquet", embeddings)
    queries = clustered(3, DIM, seed=1)
    rows, values = brute_force(embeddings.astype(np.float64) / scale, queries, 5, "cosine")
    found = fe.search(table, queries, 5)
    assert rows_of(found) == rows.tolist()
    np.testing.assert_allclose(values_of(found, "cosine"), values, rtol=1e-6)
    rows, values = brute_force(embeddings, queries * scale, 5, "l2")
    found = fe.search(table, queries.astype(np.float64) * scale, 5, metric="l2")
    np.testing.assert_allclose(values_of(found, "l2"), values, rtol=1e-6)


def test_more_than_there_are(tmp_path):
    table = write_table(tmp_path / "x.parquet", clustered(4, DIM))
    assert [len(found) for found in fe.search(table, ["row:#1", np.ones(DIM)], 10)] == [3, 4]
    assert fe.search(table, []) == []


def test_one_row_leaves_itself_out_where_it_is(small_pieces, tmp_path):
    """By its number: its copies are found."""
    embeddings = np.concatenate([clustered(50, DIM), clustered(50, DIM)])
    table = write_table(tmp_path / "x.parquet", embeddings)
    found = fe.search(table, ["row:#7", "row:#57"], 2)
    assert [matches[0].row for matches in found] == [57, 7]
    found = fe.search(table, ["row:#7", "row:#57"], 2, include_self=True)
    assert rows_of(found) == [[7, 57], [7, 57]]


@pytest.mark.parametrize("group", [13, 41])
def test_row_groups_of_several_files_are_read_ahead(group, small_pieces, tmp_path):
    embeddings = clustered(400, DIM)
    for number, first in enumerate((0, 150, 160)):
        part = tmp_path / f"part-{number:06}.parquet"
        write_table(part, embeddings[first : (150, 160, 400)[number]])
        pq.write_table(pq.read_table(part), part, row_group_size=group)
    rows, _ = brute_force(embeddings, embeddings[::57], 9, "cosine")
    assert rows_of(fe.search(tmp_path, embeddings[::57], 9)) == rows.tolist()


def test_progress_is_of_rows(small_pieces, tmp_path):
    table, seen = write_table(tmp_path / "x.parquet", clustered(100, DIM)), []
    fe.search(table, "row:#0", progress=seen.append)
    assert sum(seen) == 100
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k is 0"),
        ({"metric": "dot"}, ValueError, "metric is 'dot', expected cosine or l2"),
        ({"queries": 3}, TypeError, "queries are int"),
        ({"queries": [3]}, TypeError, "a query is int"),
        ({"queries": np.ones(5)}, ValueError, r"float64 \[5\]"),
        ({"queries": np.ones((2, 5))}, ValueError, r"float64 \[5\]"),
        ({"queries": np.ones(DIM, int)}, ValueError, "int64"),
        ({"queries": np.full(DIM, np.nan)}, ValueError, "not finite"),
    ],
)
def test_wrong_arguments(arguments, error, message, tmp_path):
    table = write_table(tmp_path / "x.parquet", clustered(4, DIM))
    with pytest.raises(error, match=message):
        fe.search(**({"table": table, "queries": "row:#0"} | arguments))


def test_a_value_that_is_not_finite(tmp_path):
    embeddings = clustered(20, DIM)
    embeddings[11, 3] = np.inf
    table = write_table(tmp_path / "x.parquet", embeddings)
    with pytest.raises(fe.FusionEngineError, match=r"embedding of row 11 \(11.wav\)"):
        fe.search(table, "row:#0")


PROGRAM = """
import sys
import numpy as np
import fusion_engine as fe
from fusion_engine.table_reader import open_table

def peak(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

small, table = map(open_table, sys.argv[1:])
fe.search(small, np.ones((3, small.dim)))  # libraries
open("/proc/self/clear_refs", "w").write("5")
before = peak("VmRSS")
fe.search(table, np.ones((3, table.dim)))
print(peak("VmHWM") - before)
"""


def test_memory_is_that_of_blocks(tmp_path):
    """Of 15 row groups, with what pyarrow needs to decode them: all at once would be 600 MB."""
    rng, size = np.random.default_rng(0), 2**13
    small = write_table(tmp_path / "small.parquet", rng.random((10, 1024)))
    table = write_table(tmp_path / "x.parquet", rng.random((60_000, 1)) + rng.random(1024))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, small, table], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 350_000, f"{done.stdout} KiB"
    assert open_table(table).block_rows == size
