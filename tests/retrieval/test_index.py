"""Indexes against exact search, and what is refused."""

import builtins
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fusion_engine as fe
from fusion_engine.output import Row
from fusion_engine.retrieval import build, build_index, open_index
from fusion_engine.retrieval.index import as_kept, read_info
from fusion_engine.retrieval.metrics import Scorer
from fusion_engine.table_reader import open_table

from .tables import clustered, spec_of, write_table
from .test_exact import rows_of

DIM = 32


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table():
    return write_table(Path("x.parquet"), clustered(1500, DIM), dtype="float16")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_it_finds_what_exact_search_finds(metric, table):
    info = build_index(table, "x.usearch", metric=metric)
    assert info == read_info(Path("x.usearch"))
    assert (info.rows, info.dim, info.recall_queries) == (1500, DIM, 100)
    assert info.space == spec_of(DIM).space
    assert info.recall_at_10 > 0.9
    queries = clustered(50, DIM, seed=1)
    exact = fe.search(table, queries, 10, metric=metric)
    found = fe.search(table, queries, 10, metric=metric, index="x.usearch")
    hits = sum(
        len(set(one) & set(other))
        for one, other in zip(rows_of(exact), rows_of(found), strict=True)
    )
    assert hits / 500 > 0.9
    # What was found has the values of exact search, since the table is in FP16 too.
    values = {(number, m.row): m for number, matches in enumerate(exact) for m in matches}
    for number, matches in enumerate(found):
        for match in matches:
            assert match == values.get((number, match.row), match)


def test_the_recall_is_that_of_the_rows_it_found(monkeypatch, table):
    """A search that misses every second row has half of it."""
    nearest = build.Index.nearest

    def half(self, queries, k, *, leave_out):
        return nearest(self, queries, k // 2, leave_out=leave_out)

    assert build_index(table, "x.usearch", expansion_search=512).recall_at_10 > 0.99
    monkeypatch.setattr(build.Index, "nearest", half)
    info = build_index(table, "y.usearch", expansion_search=512)
    assert 0.49 < info.recall_at_10 <= 0.5


def test_equal_rows_stand_for_each_other():
    table = write_table(Path("x.parquet"), np.tile(clustered(20, DIM), (30, 1)))
    assert build_index(table, "x.usearch").recall_at_10 > 0.9


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_values_of_tables_in_fp32(suffix, metric):
    """Are those of FP16, near enough."""
    embeddings = clustered(60, DIM)
    table = write_table(Path(f"x{suffix}"), embeddings)
    assert build_index(table, "x.usearch", metric=metric).recall_at_10 > 0.9
    exact = fe.search(table, ["row:#3", "row:#59"], 59, metric=metric)
    found = fe.search(table, ["row:#3", "row:#59"], 59, metric=metric, index="x.usearch")
    for near, best in zip(found, exact, strict=True):
        ours, theirs = ({match.row: match for match in matches} for matches in (near, best))
        assert set(ours) == set(theirs)
        for row, match in ours.items():
            if metric == "cosine":
                assert abs(match.similarity - theirs[row].similarity) < 5e-4
            else:
                length = np.linalg.norm(embeddings[row])
                assert abs(match.distance - theirs[row].distance) < 5e-4 * length


HALVES = st.floats(-60_000, 60_000, width=16)
SINGLES = st.floats(-60_000, 60_000, width=32)


@given(row=hnp.arrays(np.float16, 5, elements=HALVES))
def test_halves_are_kept_as_they_are(row):
    exact = row.astype(np.float64)
    assert (as_kept(exact[None], "l2") == row).all()
    kept = as_kept(exact[None], "cosine")[0].astype(np.float64)
    length, now = np.linalg.norm(exact), np.linalg.norm(kept)
    if length:
        assert 64 <= now <= 128
        power = 2.0 ** np.round(np.log2(now / length))
        digits = np.abs(exact) >= 2.0**-20 * length
        assert (kept == power * exact)[digits].all()


@given(
    rows=hnp.arrays(np.float32, (3, 5), elements=SINGLES),
    query=hnp.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)),
)
def test_the_rounding_is_bounded(rows, query):
    """Of similarities and distances, as the docstring has it."""
    off = {
        metric: [
            Scorer(query[None], metric).exact(0, given)
            for given in (rows, as_kept(rows.astype(np.float64), metric))
        ]
        for metric in ("cosine", "l2")
    }
    assert (np.abs(np.subtract(*off["cosine"])) <= 1.001 * 2.0**-11).all()
    distances = np.sqrt(-np.array(off["l2"]))
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bound = 2.0**-11 * lengths + 5**0.5 * 2.0**-25
    assert (np.abs(np.subtract(*distances)) <= bound * 1.001).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosines_of_rows_of_any_size(scale):
    table = write_table(Path("x.parquet"), clustered(60, DIM) * np.float32(scale))
    assert build_index(table, "x.usearch").recall_at_10 > 0.9


def test_few_rows():
    table = write_table(Path("x.parquet"), clustered(3, DIM))
    info = build_index(table, "x.usearch")
    assert (info.recall_at_10, info.recall_queries) == (1.0, 3)
    found = fe.search(table, ["row:#1"], index="x.usearch")
    assert sorted(rows_of(found)[0]) == [0, 2]
    one = write_table(Path("y.parquet"), clustered(1, DIM))
    assert build_index(one, "y.usearch").recall_at_10 == 1.0
    assert fe.search(one, "row:#0", index="y.usearch") == [[]]


def test_progress_has_two_phases(table):
    seen = []
    build_index(table, "x.usearch", progress=lambda *step: seen.append(step))
    for phase in ("Indexing", "Comparing"):
        steps = [done for name, done, total in seen if name == phase and total == 1500]
        assert steps == sorted(steps)
        assert steps[-1] == 1500


def change(**fields):
    sidecar = Path("x.usearch.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | fields))


@pytest.mark.parametrize("what", ["rows", "values", "space", "times"])
def test_an_index_of_another_table(what, table):
    build_index(table, "x.usearch")
    rows, embeddings, spec = None, clustered(1500, DIM), None
    if what == "rows":
        embeddings = embeddings[:-1]
    elif what == "values":
        embeddings[7] += 1
    elif what == "times":
        rows = [Row(path=f"{n}.wav", end=2.0, duration=2.0) for n in range(1500)]
    else:
        spec = replace(spec_of(DIM), frames_per_step=16)
    write_table(table, embeddings, dtype="float16", rows=rows, spec=spec)
    message = {"rows": "rows 1500, expected 1499", "space": "embedding space"}
    expected = message.get(what, "fingerprint of the table")
    with pytest.raises(fe.FusionEngineError, match=f"x.usearch: {expected}.*build it again: fus"):
        fe.search(table, "row:#0", index="x.usearch")


def test_another_metric(table):
    build_index(table, "x.usearch", metric="l2")
    with pytest.raises(fe.FusionEngineError, match="metric l2, expected cosine"):
        fe.search(table, "row:#0", index="x.usearch")


@pytest.mark.parametrize("damage", ["cut", "graph", "head", "empty", "other"])
def test_a_damaged_index(damage, table):
    """Found before the library follows what is in it."""
    build_index(table, "x.usearch")
    path = Path("x.usearch")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-9:]
    elif damage == "graph":
        content[-1000] ^= 1
    elif damage == "head":
        content[2] ^= 1
    else:
        content = b"" if damage == "empty" else bytes(len(content))
    path.write_bytes(content)
    with pytest.raises(fe.FusionEngineError, match=r"not what x.usearch.json says .* build it"):
        fe.search(table, "row:#0", index=path)


def test_a_damaged_vector(table):
    """They are not checked when it is opened, which would take as long as reading the table."""
    build_index(table, "x.usearch", metric="l2")
    content = bytearray(Path("x.usearch").read_bytes())
    at = content.index(next(open_table(table).blocks())[700].tobytes())
    content[at : at + 2] = np.float16(np.inf).tobytes()
    Path("x.usearch").write_bytes(content)
    index = open_index("x.usearch", open_table(table), "l2")
    with pytest.raises(fe.FusionEngineError, match=r"index of x.parquet is damaged: a vector is"):
        index.vectors(np.array([3, 700]))
    assert index.vectors(np.array([3, 701])).shape == (2, DIM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": "many"}, "index.rows is 'many', expected int"),
        ({"more": 1}, "unknown fields"),
        ({"metric": "dot"}, "index.metric is 'dot'"),
        ({"recall_at_10": "x" * 70_000}, "characters, expected at most"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_damaged_sidecar(fields, message, table):
    build_index(table, "x.usearch")
    change(**fields)
    with pytest.raises(fe.FusionEngineError, match=f"x.usearch.json: damaged .*{message}"):
        fe.search(table, "row:#0", index="x.usearch")


def test_a_missing_file(table):
    with pytest.raises(fe.FusionEngineError, match=r"x.usearch: no such file. Build it with"):
        fe.search(table, "row:#0", index="x.usearch")
    build_index(table, "x.usearch")
    Path("x.usearch.json").unlink()
    with pytest.raises(fe.FusionEngineError, match=r"x.usearch.json: no such file"):
        fe.search(table, "row:#0", index="x.usearch")


def test_too_little_memory(table, monkeypatch):
    monkeypatch.setattr(build, "available_memory", lambda: 100_000)
    with pytest.raises(fe.BackendError, match=r"built in 0.0 GB of memory, and 0.0 GB are avail"):
        build_index(table, "x.usearch")
    monkeypatch.setattr(build, "available_memory", lambda: None)
    build_index(table, "x.usearch")


def test_too_little_disk(table, monkeypatch):
    usage = build.shutil.disk_usage(".")
    monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(fe.FusionEngineError, match=r"cannot write x.usearch: about 0.0 GB are"):
        build_index(table, "x.usearch")


@pytest.mark.parametrize("at", ["add", "save"])
def test_what_fails_leaves_what_was_there(at, table, monkeypatch):
    import usearch.index

    build_index(table, "x.usearch")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}

    def fail(*args, **kwargs):
        raise RuntimeError("No space left on device") if at == "save" else KeyboardInterrupt

    monkeypatch.setattr(usearch.index.Index, at, fail)
    with pytest.raises(fe.FusionEngineError if at == "save" else KeyboardInterrupt):
        build_index(table, "x.usearch", connectivity=8)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_values_beyond_halves():
    table = write_table(Path("x.parquet"), clustered(20, DIM) * 1e5)
    build_index(table, "x.usearch")
    with pytest.raises(fe.FusionEngineError, match=r"holds \S+, expected at most 65504"):
        build_index(table, "y.usearch", metric="l2")


@pytest.mark.parametrize(
    "arguments", [{"connectivity": 1}, {"expansion_add": 5000}, {"expansion_search": 0}]
)
def test_wrong_arguments(arguments, table):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, expected 2 to 4096"):
        build_index(table, "x.usearch", **arguments)


def test_without_usearch(table, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "usearch":
            raise ImportError("No module named 'usearch'")
        return real(name, *args, **kwargs)

    build_index(table, "x.usearch")
    monkeypatch.setattr(builtins, "__import__", absent)
    for call in (
        lambda: build_index(table, "y.usearch"),
        lambda: fe.search(table, "row:#0", index="x.usearch"),
    ):
        with pytest.raises(fe.BackendError, match=re.escape('pip install ".[search]"')):
            call()
    assert fe.search(table, "row:#0")


def test_the_table_is_not_read(table, monkeypatch):
    build_index(table, "x.usearch")
    opened = open_table(table)
    monkeypatch.delattr(type(opened), "_parts")
    found = fe.search(opened, np.ones((2, DIM)), 5, index="x.usearch")
    assert [len(matches) for matches in found] == [5, 5]


def test_an_index_that_is_open(table):
    build_index(table, "x.usearch")
    opened = open_table(table)
    index = open_index("x.usearch", opened)
    expected = fe.search(table, ["row:#3", "row:#9"], index="x.usearch")
    assert fe.search(opened, ["row:#3", "row:#9"], index=index) == expected
    for other, metric in ((open_table(table), "cosine"), (opened, "l2")):
        with pytest.raises(ValueError, match=r"the index was opened for x.parquet and the metric"):
            fe.search(other, "row:#3", index=index, metric=metric)


def test_many_threads_share_one(table):
    build_index(table, "x.usearch")
    opened = open_table(table)
    index = open_index("x.usearch", opened)
    queries = clustered(40, DIM, seed=1)
    expected = [fe.search(opened, query, 5, index=index) for query in queries]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda query: fe.search(opened, query, 5, index=index), queries))
    assert found == expected
