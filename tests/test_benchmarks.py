import json
import math
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import (
    cases_corpus,
    cases_cpu,
    cases_host,
    cases_probe,
    cases_search,
    corpora,
    harness,
    machine,
    report,
    report_corpus,
    report_search,
    run,
)
from benchmarks.harness import (
    AnswerCheck,
    Case,
    Contender,
    Measurement,
    PeerComparison,
    Skipped,
    WrongAnswerError,
)

pytestmark = pytest.mark.heavy


def scripted(name, samples, log):
    """A contender that takes as long as it is told."""

    def prepare():
        log.append(f"prepare {name}")
        remaining = iter(samples)

        def sample():
            log.append(name)
            return next(remaining)

        return sample

    return Contender(name, prepare)


def toy_case(error=0.0, log=None):
    log = [] if log is None else log
    ours = scripted("ours", [1e-3, 2e-3, 4e-3], log)
    peer = scripted("peer", [2e-3, 8e-3, 4e-3], log)
    comparison = PeerComparison(ours, peer, lambda: AnswerCheck("distance", error, 1e-6))
    return Case("toy", "a toy", lambda folder: [comparison, Skipped("other", "not installed")])


def test_pairs_alternate_after_both_are_warm():
    log = []
    ours = scripted("ours", [1.0, 2.0], log)
    peer = scripted("peer", [3.0, 4.0], log)
    assert harness.time_pairs(ours, peer, 2) == ([1.0, 2.0], [3.0, 4.0])
    assert log == ["prepare ours", "prepare peer", "ours", "peer", "ours", "peer"]


def test_the_speed_up_is_taken_pair_by_pair():
    """The median of the ratios, which is not the ratio of the medians."""
    got = harness.summary([1.0, 2.0, 10.0], [4.0, 2.0, 5.0])
    assert got["speed_up"]["samples"] == [4.0, 1.0, 0.5]
    assert got["speed_up"]["median"] == 1.0
    assert got["ours_ms"]["median"] == 2_000.0
    assert got["peer_ms"]["median"] == 4_000.0


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_quartiles_are_numpys(count):
    values = np.random.default_rng(count).random(count).tolist()
    got = harness.quartiles(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75])
    np.testing.assert_allclose([got["q1"], got["median"], got["q3"]], expected, rtol=1e-14)
    assert got["samples"] == values


def test_a_short_call_is_timed_over_many(monkeypatch):
    clock = iter(range(1_000_000))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: 1e-3 * next(clock))
    called = []
    sampler = harness.calls("short", lambda: called.append(1)).prepare()
    assert len(called) == harness.WARMUP_CALLS
    # Each warm-up call took one tick of 1 ms: 50 of them fill a sample, which also ticks once.
    assert math.isclose(sampler(), 1e-3 / 50)
    assert len(called) == harness.WARMUP_CALLS + 50


@pytest.mark.parametrize("in_child", [False, True])
def test_own_cpu_time_is_not_that_of_others(in_child, monkeypatch):
    """Told apart from a busy machine: by counters where nobody else runs."""
    ticks = machine.os.sysconf("SC_CLK_TCK")
    own = [0.0, 0.0]

    def times():
        children = [own[1], 0.0]
        return (own[0], 0.0, *children, 0.0)

    stat = iter([[100, 0, 50], [100 + 3 * ticks, 0, 50]])
    monkeypatch.setattr(
        machine.Path,
        "read_text",
        lambda path: "cpu  {} {} {} 9999 9999 0 0 0 0 0\ncpu0 ...".format(*next(stat)),
    )
    monkeypatch.setattr(machine.os, "times", times)
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    with harness.CpuOfOthers() as others:
        own[in_child] += 1.0  # of the 3 s in which a core was busy
    assert others.cores == 0.5


def test_a_child_that_still_runs_counts():
    """The decoders of a command do, when it says what it took."""
    program = (
        "import sys, time\nx = b'x' * 2**28\nwhile time.process_time() < 0.5: pass\n"
        "print(flush=True)\nsys.stdin.read()"
    )
    cpu, peak = machine.cpu_seconds(), machine.peak_gib()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.read(1)
        assert 0.45 < machine.cpu_seconds() - cpu < 5
        assert 0.25 < machine.peak_gib() - peak < 1
        child.stdin.close()
    assert 0.45 < machine.cpu_seconds() - cpu < 5


def test_records_of_a_case(tmp_path):
    timed, skipped = harness.run_case(toy_case(), tmp_path, 3)
    assert timed["check"] == {"measure": "distance", "error": 0.0, "tolerance": 1e-6}
    assert timed["ours_ms"]["samples"] == [1.0, 2.0, 4.0]
    assert timed["speed_up"]["median"] == 2.0
    assert skipped == {
        "case": "toy",
        "title": "a toy",
        "peer": "other",
        "skipped": "not installed",
    }


def test_a_measurement_has_no_peer(tmp_path):
    took = {"seconds": 12.5, "peak_gib": 1.25}
    case = Case("long", "a long job", lambda folder: [Measurement("ours", lambda: took)])
    (record,) = harness.run_case(case, tmp_path, 15)
    assert record["measured"] == took
    assert "seconds 12.5  peak_gib 1.25" in run._line(record)
    row = report.table([record]).splitlines()[2]
    assert row == "| a long job | 12500 | none |  | peak memory 1.25 GiB |"


@pytest.mark.parametrize("error", [2e-6, math.nan])
def test_a_wrong_answer_is_not_timed_and_nothing_is_written(error, tmp_path, monkeypatch, capsys):
    log = []
    monkeypatch.setattr(cases_cpu, "cases", lambda: (toy_case(error, log),))
    output = tmp_path / "out.json"
    assert run.main(["--pairs", "3", "--output", str(output)]) == 1
    assert log == []
    assert list(tmp_path.iterdir()) == []
    assert "toy against peer: distance is" in capsys.readouterr().err


def test_some_cases_go_to_stdout_and_leave_the_results_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cases_cpu, "cases", lambda: (toy_case(),))
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    assert run.main(["--pairs", "3", "--case", "toy"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["case"] == "toy"
    assert list(tmp_path.iterdir()) == []
    assert run.main(["--pairs", "3"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]


def test_a_case_that_is_run_again_replaces_its_records(monkeypatch, tmp_path):
    first = Case("first", "another", lambda folder: [Skipped("other", "not installed")])
    monkeypatch.setattr(cases_cpu, "cases", lambda: (first, toy_case()))
    output = tmp_path / "cpu.json"
    arguments = ["--pairs", "3", "--output", str(output)]
    assert run.main(arguments) == 0
    before = json.loads(output.read_text())
    again = Case("first", "another", lambda folder: [Skipped("other", "gone")])
    monkeypatch.setattr(cases_cpu, "cases", lambda: (again, toy_case()))
    assert run.main([*arguments, "--case", "first"]) == 0
    after = json.loads(output.read_text())
    assert after["results"] == [before["results"][0] | {"skipped": "gone"}, *before["results"][1:]]
    monkeypatch.setattr(machine, "_commit", lambda: "another")
    with pytest.raises(SystemExit, match="has machine"):
        run.main([*arguments, "--case", "first"])
    assert json.loads(output.read_text()) == after


def test_a_suite_has_its_own_cases_and_results(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cases_probe, "cases", lambda: (toy_case(),))
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    assert run.main(["--pairs", "3", "--suite", "probe"]) == 0
    assert json.loads((tmp_path / "probe.json").read_text())["suite"] == "probe"
    with pytest.raises(SystemExit, match="2"):
        run.main(["--pairs", "3", "--suite", "cpu", "--case", "toy"])
    assert "--suite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--pairs", "0"], ["--case", "unknown"], ["--output", "no/such/folder/x.json"]]
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(argv)
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["frontend-10s-b1", "fusion-10s-b1", "import"])
def test_a_real_case_passes_its_check(name, tmp_path):
    (case,) = (case for case in cases_cpu.cases() if case.name == name)
    for comparison in case.build(tmp_path):
        assert comparison.check().passed


@pytest.fixture
def small_probe(monkeypatch):
    """The probe's cases at a size for tests."""
    import torch

    for name, value in {"EXAMPLES": 400, "DIM": 64, "CLASSES": 5, "STEPS": 2, "THREADS": 1}.items():
        monkeypatch.setattr(cases_probe, name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.parametrize("broken", [False, True])
def test_the_probe_takes_the_steps_of_pytorch(broken, small_probe, tmp_path, monkeypatch):
    if broken:
        monkeypatch.setattr(cases_probe, "WEIGHT_DECAY", 1e-2)
    assert [c.check().passed for c in cases_probe.steps(tmp_path)] == [not broken] * 2


def test_a_whole_evaluation_is_measured(small_probe, monkeypatch, capsys):
    cases_probe.evaluate_here()
    measured = json.loads(capsys.readouterr().out)
    assert 0.5 < measured["accuracy"] <= 1.0
    assert 0 < measured["peak_gib"] < 16
    assert measured["seconds"] > 0


def test_too_much_memory_is_a_wrong_answer(monkeypatch, tmp_path):
    printed = '{"seconds": 1, "peak_gib": 4.5}'
    monkeypatch.setattr(
        cases_probe.subprocess,
        "run",
        lambda *given, **named: subprocess.CompletedProcess(given, 0, printed),
    )
    (measurement,) = cases_probe.whole(tmp_path)
    with pytest.raises(WrongAnswerError, match=r"peaks at 4\.50 GiB"):
        measurement.measure()


@pytest.fixture
def small_corpora(monkeypatch):
    """The corpora at a size for tests."""
    sizes = {"CLIPS": 6, "RECORDINGS": 2, "RECORDING_SECONDS": 10, "CHECKED_CLIPS": 6}
    for name, value in sizes.items():
        monkeypatch.setattr(cases_corpus, name, value)
    monkeypatch.setattr(cases_corpus, "THREADS", 1)


@pytest.mark.parametrize("make", ["clips", "recordings"])
def test_a_corpus_is_the_same_each_time(make, small_corpora, tmp_path):
    def made(folder):
        if make == "clips":
            corpora.short_clips(folder, 6)
        else:
            corpora.long_recordings(folder, 1, 31.0)
        return {path.name: soundfile.read(path, dtype="float32") for path in folder.iterdir()}

    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    assert len(first) == (6 if make == "clips" else 1)
    for name, (samples, rate) in first.items():
        again, same_rate = second[name]
        assert np.array_equal(samples, again)
        assert rate == same_rate
        seconds = len(samples) / rate
        assert 1.0 <= seconds < 10.1 if make == "clips" else seconds == 31.0
    if make == "clips":
        formats = {soundfile.info(path).subtype for path in (tmp_path / "first").iterdir()}
        assert formats == {subtype for _, subtype in corpora.FORMATS}


def test_a_corpus_is_timed(small_corpora, tmp_path):
    case = Case("toy", "a toy", lambda folder: cases_corpus.clips("tiny", 6, ["decoded"], folder))
    (record,) = harness.run_case(case, tmp_path, 1)
    assert 6 <= record["audio_seconds"] <= 60
    for side in ("ours", "peer"):
        assert 0 < record[f"{side}_process"]["cpu_utilisation"] <= 1.1
        assert 0.05 < record[f"{side}_process"]["peak_gib"] < 4
    real_time = f"{record['audio_seconds'] / record['ours_ms']['median'] * 1e3:.0f}"
    assert f"| a toy | {real_time} | " in report_corpus.table([record])
    described = {"machine": machine.describe_host(1), "date": "2022-08-29", "results": [record]}
    percent = f"{100 * record['speed_up']['median']:.0f} % of the engine's speed"
    assert f"- a toy: {real_time} times real time" in report_corpus.summary(described)
    assert percent in report_corpus.summary(described)


@pytest.mark.parametrize("network", ["tiny", pytest.param("cnn14", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("make", "peer"), [("clips", "loop"), ("recordings", "batched")])
def test_a_loop_gives_our_embeddings(make, peer, network, small_corpora, tmp_path):
    (comparison,) = getattr(cases_corpus, make)(network, 6, [peer], tmp_path)
    check = comparison.check()
    assert check.passed
    assert check.error > 0  # from another library


def test_embeddings_in_another_order_are_wrong(small_corpora, tmp_path, monkeypatch):
    def reversed_by_a_peer(name, work):
        rows = np.arange(6 * 128, dtype=np.float32).reshape(6, 128)
        np.save(f"{work.folder}/embeddings.npy", rows if name == "command" else rows[::-1])
        return {}

    (comparison,) = cases_corpus.clips("tiny", 6, ["loop"], tmp_path)
    monkeypatch.setattr(cases_corpus, "run_alone", reversed_by_a_peer)
    assert not comparison.check().passed


def test_a_run_without_all_rows_is_not_timed(small_corpora, tmp_path, monkeypatch):
    def three_rows(name, work):
        np.save(f"{work.folder}/embeddings.npy", np.zeros((3, 128), np.float32))
        return {"seconds": 1.0}

    (comparison,) = cases_corpus.recordings("tiny", 2, ["loop"], tmp_path)
    monkeypatch.setattr(cases_corpus, "run_alone", three_rows)
    with pytest.raises(WrongAnswerError, match="tiny, loop: 3 rows, expected 4"):
        comparison.peer.prepare()()


def test_a_job_that_fails_says_why(tmp_path):
    work = cases_corpus.Work(
        files=str(tmp_path / "missing.txt"),
        network="tiny",
        artifact="missing.onnx",
        window=None,
        threads=1,
        folder=str(tmp_path),
    )
    with pytest.raises(RuntimeError, match=r"the job decoded failed:(\n|.)*missing\.onnx"):
        cases_corpus.run_alone("decoded", work)


@pytest.mark.parametrize("form", ["fuse_textbook", "fuse_reduced_first"])
def test_a_wrong_peer_fails_the_check(form, tmp_path, monkeypatch):
    right = getattr(cases_cpu.peers, form)
    monkeypatch.setattr(cases_cpu.peers, form, lambda *given: right(*given).roll(1, dims=1))
    checks = [c.check() for c in cases_cpu.fusion((3, 6), 1, 1, tmp_path)]
    assert sorted(check.passed for check in checks) == [False, True]


def test_the_host_suite_times_a_warm_call_alone(tmp_path):
    case = next(case for case in cases_host.cases() if case.name == "host-1s-b1")
    (record,) = harness.run_case(case, tmp_path, 1)
    assert record["check"] == {"measure": "largest difference", "error": 0.0, "tolerance": 0.0}
    calls = record["python_calls"]
    assert 0 < calls[cases_host.OURS] <= 12 < calls[cases_host.CHECKED]


@pytest.mark.parametrize("given", [cases_host.separate, cases_host.pinned])
@pytest.mark.parametrize("name", [cases_host.CHECKED, cases_host.COPIED, cases_host.ONE_BY_ONE])
def test_the_host_suites_other_ways_give_the_same(given, name, tmp_path):
    (pair,) = cases_host.warm(3, 1, np.float32, tmp_path, given=given, name=name)
    assert pair.check() == harness.AnswerCheck("largest difference", 0.0, 0.0)
    assert list(pair.figures()["python_calls"]) == [cases_host.OURS, name]


def test_the_host_suites_page_has_its_markers():
    described = {"suite": "host", "pairs": 1, "date": "", "results": []}
    described["machine"] = machine.describe_host(1)
    ((page, content),) = report.pages(described).items()
    assert content in report.with_block(page.read_text(), "host", content)


@pytest.fixture
def small_search(monkeypatch):
    """The search suite at a size for tests."""
    monkeypatch.setattr(cases_search, "SIZES", {"tiny": 300})
    monkeypatch.setattr(cases_search, "QUERIES", (2,))


def test_a_search_is_timed_against_numpy(small_search, tmp_path):
    exact, index = cases_search.cases()
    records = [*harness.run_case(exact, tmp_path, 1), *harness.run_case(index, tmp_path, 1)]
    assert 0 < records[0]["check"]["error"] <= cases_search.SAME  # FP32 against FP64
    assert 0.9 < records[1]["recall_at_10"] <= 1
    for record in records:
        for side in ("ours", "peer"):
            assert 0.05 < record[f"{side}_process"]["peak_gib"] < 4
    text = report_search.table(records)
    assert "| 300 × 6144, exact, 2 queries | " in text
    assert "\n300 × 6144, index, 1 query: built in " in text


def test_a_search_that_finds_others_is_not_timed(small_search, tmp_path, monkeypatch):
    (comparison,) = cases_search.exact(20, 2, tmp_path)
    monkeypatch.setattr(cases_search.SearchJob, "run", lambda job: np.ones(3))
    assert comparison.check().passed
    monkeypatch.setattr(
        cases_search.SearchJob, "run", lambda job: np.full(3, float(job.name == "exact"))
    )
    assert not comparison.check().passed


def test_an_index_that_takes_long_is_not_built(tmp_path):
    case = Case("big", "a big one", lambda folder: cases_search.index(10**6, folder))
    (record,) = harness.run_case(case, tmp_path, 1)
    assert record["skipped"] == "building it takes too long; an index of 100000 rows is measured"
    assert "| a big one |  |  |  | NumPy, FP32 in blocks | not run |" in report_search.table(
        [record]
    )


def test_the_search_suites_page_has_its_markers():
    described = {"suite": "search", "pairs": 1, "date": "", "results": []}
    described["machine"] = machine.describe_host(1)
    ((page, content),) = report.pages(described).items()
    assert content in report.with_block(page.read_text(), "search", content)


def test_the_machine_is_described_without_names_or_paths():
    described = machine.describe_host(2)
    assert described["threads"] == 2
    assert described["libraries"]["numpy"] == np.__version__
    text = json.dumps(described)
    assert not re.search(r"\"/|~/", text)
    assert platform.node() not in text.split('"')


@pytest.mark.parametrize(
    ("suite", "cases", "pairs"), [("cpu", cases_cpu, 15), ("corpus", cases_corpus, 2)]
)
def test_the_committed_results_are_whole(suite, cases, pairs):
    committed = json.loads(Path(report.RESULTS, f"{suite}.json").read_text())
    assert committed["pairs"] >= pairs
    assert committed["machine"]["threads"] == committed["machine"]["cores"]
    assert list(dict.fromkeys(record["case"] for record in committed["results"])) == [
        case.name for case in cases.cases()
    ]
    for record in committed["results"]:
        if "skipped" not in record:
            assert (record["other_cores"] or 0.0) <= run.QUIET_CORES
            assert record["check"]["error"] <= record["check"]["tolerance"]
            own, peer = (record[key]["samples"] for key in ("ours_ms", "peer_ms"))
            again = harness.summary([ms / 1e3 for ms in own], [ms / 1e3 for ms in peer])
            assert len(own) == committed["pairs"]
            for key in ("ours_ms", "peer_ms", "speed_up"):
                assert math.isclose(again[key]["median"], record[key]["median"], rel_tol=1e-12)


def test_the_pages_show_the_committed_results():
    for committed in report.committed():
        for page, content in report.pages(committed).items():
            text = page.read_text()
            assert report.with_block(text, committed["suite"], content) == text, (
                "run: python benchmarks/report.py --readme"
            )


def test_the_report_puts_the_table_between_the_markers(tmp_path, monkeypatch, capsys):
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(report, "BENCHMARKS", page)
    records = list(harness.run_case(toy_case(), tmp_path, 3))
    results = tmp_path / "toy.json"
    described = {"suite": "toy", "date": "2022-08-29", "pairs": 3, "results": records}
    results.write_text(json.dumps({**described, "machine": machine.describe_host(2)}))

    page.write_text("before\n<!-- benchmarks:toy -->\nold\n<!-- /benchmarks:toy -->\nafter\n")
    assert report.main(["--readme", str(results)]) == 0
    written = page.read_text()
    assert written.startswith("before\n<!-- benchmarks:toy -->\n| case |")
    assert written.endswith("\n<!-- /benchmarks:toy -->\nafter\n")
    assert "| a toy | 2.00 | peer | 4.00 | **2.00×** (1.50–3.00) |" in written
    assert "| a toy |  | other | not run | not installed |" in written
    assert "old" not in written

    page.write_text("no markers\n")
    assert report.main(["--readme", str(results)]) == 1
    assert "<!-- benchmarks:toy -->" in capsys.readouterr().err
    assert page.read_text() == "no markers\n"
    assert report.main([str(results)]) == 0
    assert "**2.00×**" in capsys.readouterr().out


def test_the_eager_peer_is_the_stock_model(tmp_path):
    """Blocks run one by one give what the model's own forward pass gives."""
    import torch

    from .oracles import panns_layers

    samples = cases_cpu.noise(2, 1)
    model = cases_cpu.cnn14()
    log_mel = cases_cpu.peers.log_mel(model, samples)
    layers = panns_layers(model, log_mel)
    expected = cases_cpu.peers.fuse_textbook([layers[3], layers[6]], [4, 1])
    chosen = [cases_cpu.CNN14.layers[number] for number in (3, 6)]
    got = cases_cpu.peers.EagerCnn14(model, chosen)(samples)
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=1e-5)
