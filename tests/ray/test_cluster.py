"""Embedding on a cluster on this machine: a head and two nodes, one of which dies."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import fusion_engine as fe
from fusion_engine.ray import embed, write

from ..cli.in_process import run_command
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
        head["_system_config"] = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000}
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
    cluster, corpus, cnn14_artifact, windows_of_corpus, tmp_path
):
    dataset = embed(corpus, cnn14_artifact, window=0.5, hop=0.04, batch_size=8, **ACTORS)
    written = write(dataset, tmp_path / "out", rows_per_file=100)
    expected = windows_of_corpus
    assert written.rows == len(expected)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"part-{i:06d}.parquet" for i in range(len(files))]
    assert len(files) > 1
    assert_equal_tables(pa.concat_tables(map(pq.read_table, files)), expected)
    job = json.loads(pq.read_schema(files[0]).metadata[b"fusion_engine_job"])
    assert job["settings"]["window"] == 0.5
    counts = "SELECT count(*), count(DISTINCT path), sum(list_sum(embedding::FLOAT[])) FROM"
    (ours,) = duckdb.sql(f"{counts} '{tmp_path}/out/*.parquet'").fetchall()
    (theirs,) = duckdb.sql(f"{counts} expected").fetchall()
    assert ours == (written.rows, FILES, pytest.approx(theirs[2]))
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
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), parts)
    embed(
        ray.data.from_items(rows), cnn14_artifact, dtype="float16", errors="raise", **ACTORS
    ).write_parquet(tmp_path / "out")
    expected = of_one_process("--from-list", parts, "--dtype", "float16")
    got = pa.concat_tables(map(pq.read_table, (tmp_path / "out").iterdir()))
    assert_equal_tables(got, expected)


def test_the_command(cluster, corpus, cnn14_artifact, of_one_process, tmp_path, monkeypatch):
    monkeypatch.chdir(corpus)
    cluster, _ = cluster
    # The cluster that this process is connected to stays so.
    monkeypatch.setattr(ray, "init", lambda address: addresses.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    addresses = []
    arguments = ["embed", str(cnn14_artifact), "more", "broken.wav", "--ray", cluster.address]
    output = f"{tmp_path}/out/"
    assert run_command(*arguments, "-o", output) == 1
    assert addresses == [cluster.address]
    got = pa.concat_tables(map(pq.read_table, (tmp_path / "out").iterdir()))
    assert_equal_tables(got, of_one_process("more"))
    (line,) = (tmp_path / "out.errors.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "broken.wav"


@pytest.mark.slow
def test_errors_may_end_the_job(cluster, corpus, cnn14_artifact, tmp_path):
    dataset = embed(corpus, cnn14_artifact, errors="raise", batch_size=8, **ACTORS)
    with pytest.raises(fe.FusionEngineError, match=r"the Ray job failed.*broken\.wav"):
        write(dataset, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def kill(cluster, node, folder):
    """Kill a node when rows are on disk; how many files, and the nodes of the actors, are known."""
    from ray._private.state import actors

    while not (parts := list(folder.glob(".fusion_engine-*/part-*.parquet"))):
        time.sleep(0.01)
    at = {actor["Address"]["NodeID"] for actor in actors().values() if actor["State"] == "ALIVE"}
    cluster.remove_node(node, allow_graceful=False)
    return len(parts), at


def test_a_node_that_dies(cluster, corpus, cnn14_artifact, windows_of_corpus, tmp_path):
    """The last one: there is one node less."""
    cluster, nodes = cluster
    dataset = embed(corpus, cnn14_artifact, window=0.5, hop=0.04, batch_size=1, **ACTORS)
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill, cluster, nodes[0], tmp_path)
        written = write(dataset, tmp_path / "out", rows_per_file=1)
    files_then, nodes_then = killed.result()
    assert files_then < FILES / 2
    assert nodes[0].node_id in nodes_then
    got = pa.concat_tables(map(pq.read_table, (tmp_path / "out").iterdir()))
    assert len(got) == written.rows
    assert_equal_tables(got, windows_of_corpus)
    assert [path for path, _ in written.failures] == [str(corpus / "broken.wav")]
