"""Embedding on a cluster on this machine: a head and two nodes, one of which dies."""

import json
import threading
import time
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fusion_engine as fe
from fusion_engine.ray import embed, write

from .conftest import FILES

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

# Two actors: one on each node, and room for both on either.
ACTORS = {"concurrency": 2, "num_cpus": 1}
STORE = 100 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, and a head that takes no work."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=3, object_store_memory=STORE) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


def by_row(table):
    return table.sort_by([(name, "ascending") for name in ("path", "start")]).combine_chunks()


def assert_equal_tables(got, expected):
    """Equal rows, order aside, and equal columns; metadata but for the job."""
    assert got.schema.equals(expected.schema)
    assert got.schema.metadata.keys() == expected.schema.metadata.keys()
    assert got.schema.metadata[b"fusion_engine"] == expected.schema.metadata[b"fusion_engine"]
    assert by_row(got).equals(by_row(expected))


def test_a_folder_is_as_one_process_writes_it(
    cluster, corpus, cnn14_artifact, of_one_process, tmp_path
):
    dataset = embed(corpus, cnn14_artifact, window=0.5, batch_size=8, **ACTORS)
    written = write(dataset, tmp_path / "out", rows_per_file=20)
    expected = of_one_process(corpus, "--window", "0.5")
    assert written.rows == len(expected)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"part-{i:06d}.parquet" for i in range(len(files))]
    assert len(files) > 1
    assert_equal_tables(pa.concat_tables(map(pq.read_table, files)), expected)
    job = json.loads(pq.read_schema(files[0]).metadata[b"fusion_engine_job"])
    assert job["settings"]["window"] == 0.5
    sums = "SELECT count(*), count(DISTINCT path), sum(list_sum(embedding::FLOAT[])) FROM"
    ours = duckdb.sql(f"{sums} '{tmp_path}/out/*.parquet'").fetchone()
    assert ours == (written.rows, FILES, pytest.approx(duckdb.sql(f"{sums} expected").fetchone()[2]))
    ((path, reason),) = written.failures
    assert path == str(corpus / "broken.wav")
    (line,) = (tmp_path / "out.errors.jsonl").read_text().splitlines()
    assert json.loads(line) == {"path": path, "reason": reason}
    assert not list(tmp_path.glob(".fusion_engine-*"))


def test_rays_own_writer_and_a_dataset_of_parts(
    cluster, corpus, cnn14_artifact, of_one_process, tmp_path
):
    parts = tmp_path / "parts.csv"
    rows = [{"path": str(corpus / "5.wav"), "start": s, "end": s + 0.5} for s in (0.25, 1.0)]
    rows.append({"path": str(corpus / "more" / "9.wav"), "start": 0.0, "end": None})
    pa.csv.write_csv(pa.Table.from_pylist(rows), parts)
    embed(
        ray.data.from_items(rows), cnn14_artifact, dtype="float16", errors="raise", **ACTORS
    ).write_parquet(tmp_path / "out")
    expected = of_one_process("--from-list", parts, "--dtype", "float16")
    got = pa.concat_tables(map(pq.read_table, (tmp_path / "out").iterdir()))
    assert_equal_tables(got, expected)


def test_errors_may_end_the_job(cluster, corpus, cnn14_artifact, tmp_path):
    dataset = embed(corpus, cnn14_artifact, errors="raise", **ACTORS)
    with pytest.raises(Exception, match="broken.wav"):
        write(dataset, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@contextmanager
def killing(cluster, node, folder):
    """Kill a node when rows are on disk, while there are others still to come."""
    seen = []

    def kill():
        while not (parts := list(folder.glob(".fusion_engine-*/part-*.parquet"))):
            time.sleep(0.01)
        seen.append(len(parts))
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    yield seen
    thread.join()


def test_a_node_that_dies(cluster, corpus, cnn14_artifact, of_one_process, tmp_path):
    """The last one: there is one node less."""
    cluster, nodes = cluster
    dataset = embed(corpus, cnn14_artifact, window=0.5, hop=0.005, batch_size=1, **ACTORS)
    with killing(cluster, nodes[0], tmp_path) as seen:
        written = write(dataset, tmp_path / "out", rows_per_file=1)
    assert seen[0] < FILES / 2
    got = pa.concat_tables(map(pq.read_table, (tmp_path / "out").iterdir()))
    assert len(got) == written.rows
    assert_equal_tables(got, of_one_process(corpus, "--window", "0.5", "--hop", "0.005"))
    assert [path for path, _ in written.failures] == [str(corpus / "broken.wav")]
