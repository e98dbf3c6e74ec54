"""Run the benchmarks from a checkout: every answer is checked, then timed, then written as JSON."""

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    cases_corpus,
    cases_cpu,
    cases_gpu,
    cases_host,
    cases_int8,
    cases_probe,
    cases_search,
    cases_serve,
    machine,
    report_gpu,
)
from benchmarks.harness import Case, WrongAnswerError, run_case
from fusion_engine._atomic import atomic_path

RESULTS = Path(__file__).resolve().parent / "results"
SUITES = {
    "cpu": cases_cpu,
    "int8": cases_int8,
    "probe": cases_probe,
    "corpus": cases_corpus,
    "search": cases_search,
    "gpu": cases_gpu,
    "host": cases_host,
    "serve": cases_serve,
}
# They take long, and are written after every case.
KEPT = ("gpu", "corpus", "search")
DEFAULT_PAIRS = 15
PAIRS = {"corpus": cases_corpus.PAIRS, "search": cases_search.PAIRS}
# More than this used by others is said, and has no place among the committed results.
QUIET_CORES = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where an answer was wrong or the suite cannot run: nothing is written.

    The long suites, GPU, corpus and search, write after every case, so that a run that is cut
    keeps what it had; 1 is also the status where a contender of the GPU suite failed, as the
    results say.
    """
    suites = {suite: module.cases() for suite, module in SUITES.items()}
    parser = _parser([case for cases in suites.values() for case in cases])
    arguments = parser.parse_args(argv)
    cases = {case.name: case for case in suites[arguments.suite]}
    unknown = [name for name in arguments.case or () if name not in cases]
    if unknown:
        parser.error(f"argument --case: {unknown[0]} is of another suite, name it with --suite")
    chosen = [cases[name] for name in arguments.case or cases]
    output = arguments.output
    if output is None and not arguments.case:
        RESULTS.mkdir(exist_ok=True)
        output = RESULTS / f"{arguments.suite}.json"
    if output is not None and not output.parent.is_dir():
        parser.error(f"argument --output: {output.parent} is not a folder: create it first")
    pairs = arguments.pairs or PAIRS.get(arguments.suite, DEFAULT_PAIRS)
    on_gpu, keeps = arguments.suite == "gpu", arguments.suite in KEPT
    reason = cases_gpu.missing() if on_gpu else None
    if reason is not None:
        print(f"the gpu suite cannot run: {reason}", file=sys.stderr)
        return 1
    report: dict[str, Any] = {
        "suite": arguments.suite,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pairs": pairs,
    }
    report["machine"] = machine.describe_host(cases_cpu.THREADS)
    kept = earlier(output, report, arguments.case) if arguments.case else []

    def save(results: list[dict[str, Any]]) -> None:
        # In the suite's order.
        order = {name: place for place, name in enumerate(cases)}
        merged = sorted([*kept, *results], key=lambda record: order[record["case"]])
        gpu = machine.describe_gpu() if on_gpu else {}
        write(report | {"machine": report["machine"] | gpu, "results": merged}, output)

    try:
        results = run(chosen, pairs, save if keeps and output is not None else None)
    except WrongAnswerError as error:
        print(f"wrong answer, nothing is written: {error}", file=sys.stderr)
        return 1
    busiest = max((record.get("other_cores") or 0.0 for record in results), default=0.0)
    if busiest > QUIET_CORES:
        print(
            f"other processes used up to {busiest:.2f} cores: these times mean little. Run again "
            "on a quiet machine.",
            file=sys.stderr,
        )
    save(results)
    return int(any({"failed", "figures_failed"} & record.keys() for record in results))


def earlier(
    output: Path | None, report: dict[str, Any], again: Sequence[str]
) -> list[dict[str, Any]]:
    """What a file has already of the same suite on the same machine, but for the cases ``again``.

    Raises:
        SystemExit: it is of another suite or machine, or had another number of pairs.
    """
    if output is None or not output.exists():
        return []
    old = json.loads(output.read_text())
    for field in ("suite", "pairs", "machine"):
        was, now = old[field], report[field]
        if field == "machine":  # a GPU's clocks are read again
            was = {name: was.get(name) for name in now if name != "libraries"}
            now = {name: now[name] for name in was}
        if was != now:
            raise SystemExit(
                f"{output} has {field} {was}, and this run {now}: give another --output, or run "
                "all cases"
            )
    return [record for record in old["results"] if record["case"] not in again]


def write(report: dict[str, Any], output: Path | None) -> None:
    """As JSON into a file, whole or not at all, or to stdout."""
    text = json.dumps(report, indent=1) + "\n"
    if output is None:
        print(text, end="")
    else:
        with atomic_path(output) as temporary:
            temporary.write_text(text)


def run(
    cases: Sequence[Case], pairs: int, save: Callable[[list[dict[str, Any]]], None] | None = None
) -> list[dict[str, Any]]:
    """The records of all comparisons, with a line each on stderr as it goes.

    Args:
        cases: what to run.
        pairs: of samples per comparison.
        save: called after every case with all records so far.
    """
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            for record in run_case(case, Path(folder), pairs):
                print(_line(record), file=sys.stderr, flush=True)
                records.append(record)
            if save is not None:
                save(records)
    return records


def _line(record: dict[str, Any]) -> str:
    if "contender" in record:
        return report_gpu.line(record)
    if "measured" in record:
        measured = "  ".join(f"{name} {value:.4g}" for name, value in record["measured"].items())
        return f"{record['case']:20} {measured}  others {record['other_cores']} cores"
    head = f"{record['case']:20} {record['peer']:34}"
    if "skipped" in record:
        return f"{head} skipped: {record['skipped']}"
    ours, peer, speed_up = (record[key]["median"] for key in ("ours_ms", "peer_ms", "speed_up"))
    return (
        f"{head} {ours:9.2f} ms {peer:9.2f} ms {speed_up:6.2f}x  "
        f"error {record['check']['error']:.1e}, others {record['other_cores']} cores"
    )


def _parser(cases: Sequence[Case]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="cases:\n" + "\n".join(f"  {case.name:26}{case.title}" for case in cases),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--suite", choices=SUITES, default="cpu", help="whose cases (default %(default)s)"
    )
    parser.add_argument(
        "--case",
        nargs="+",
        choices=[case.name for case in cases],
        metavar="NAME",
        help="only these; all of the suite's if absent",
    )
    parser.add_argument(
        "--pairs",
        type=_positive,
        help="pairs of samples per comparison, ours and the peer's in turn (default "
        f"{DEFAULT_PAIRS}; "
        + ", ".join(f"{number} of the {suite} suite" for suite, number in PAIRS.items())
        + "); the gpu suite has a number of its own",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the JSON file; benchmarks/results/SUITE.json for all cases, stdout for some; in a "
        "file of this suite and machine that is there the cases of --case are replaced",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
