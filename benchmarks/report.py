"""Print the results as Markdown tables, or put them into the pages between their markers."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report_corpus, report_gpu, report_search, report_serve
from benchmarks.report_gpu import digits
from fusion_engine._atomic import atomic_path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
BENCHMARKS = HERE.parent / "docs" / "benchmarks.md"
CORPUS = HERE.parent / "docs" / "corpus.md"
GPU = HERE.parent / "docs" / "gpu.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where a page lacks a suite's markers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="JSON",
        help="what run.py wrote; all of benchmarks/results if absent",
    )
    parser.add_argument("--readme", action="store_true", help="update the pages in place")
    arguments = parser.parse_args(argv)
    reports = [json.loads(path.read_text()) for path in arguments.results] or committed()
    if not arguments.readme:
        print("\n".join(block(report) for report in reports), end="")
        return 0
    texts: dict[Path, str] = {}
    try:
        for report in reports:
            for page, content in pages(report).items():
                text = texts.get(page) or page.read_text()
                texts[page] = with_block(text, report["suite"], content)
    except ValueError as error:
        print(f"{page.name}: {error}", file=sys.stderr)
        return 1
    for page, text in texts.items():
        with atomic_path(page) as temporary:
            temporary.write_text(text)
    return 0


def committed() -> list[dict[str, Any]]:
    """All reports of benchmarks/results; an empty one of the GPU suite where it has none."""
    reports = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    if not any(report["suite"] == "gpu" for report in reports):
        reports.append({"suite": "gpu", "results": []})
    return reports


def pages(report: dict[str, Any]) -> dict[Path, str]:
    """What each page shows of a report."""
    if report["suite"] == "host":
        return {GPU: block(report)}
    shown = {BENCHMARKS: block(report)}
    if report["suite"] == "cpu":
        shown[README] = block(report | {"results": headline(report)})
    if report["suite"] == "corpus":
        shown[CORPUS] = report_corpus.summary(report)
    return shown


def headline(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons that README shows: one clip of 10 s."""
    return [record for record in report["results"] if record["title"] == "embed 10 s, batch 1"]


def with_block(text: str, suite: str, content: str) -> str:
    """``text`` with the suite's block replaced by ``content``.

    Raises:
        ValueError: a marker is missing.
    """
    first, last = (f"<!-- {slash}benchmarks:{suite} -->\n" for slash in ("", "/"))
    before, found_first, rest = text.partition(first)
    _, found_last, after = rest.partition(last)
    if not found_first or not found_last:
        raise ValueError(f"expected the lines {first.strip()} and {last.strip()}")
    return before + first + content + last + after


def block(report: dict[str, Any]) -> str:
    """The table, and under it what it was measured on."""
    if report["suite"] == "gpu":
        return report_gpu.block(report)
    if report["suite"] == "serve":
        return f"{report_serve.table(report['results'])}\n{measured_on(report)}\n"
    tables = {"corpus": report_corpus.table, "search": report_search.table}
    rows = tables.get(report["suite"], table)
    return f"{rows(report['results'])}\n{footnote(report)}\n"


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per comparison."""
    lines = [
        "| case | fusion_engine, ms | peer | peer, ms | speed-up (quartiles) |",
        "|---|--:|---|--:|--:|",
    ]
    for record in results:
        if "measured" in record:
            measured = record["measured"]
            cells = [record["title"], digits(1e3 * measured["seconds"]), "none"]
            cells += ["", f"peak memory {digits(measured['peak_gib'])} GiB"]
        elif "skipped" in record:
            cells = [record["title"], "", record["peer"], "not run", record["skipped"]]
        else:
            speed_up = record["speed_up"]
            cells = [
                record["title"],
                digits(record["ours_ms"]["median"]),
                record["peer"],
                digits(record["peer_ms"]["median"]),
                f"**{digits(speed_up['median'])}×** "
                f"({digits(speed_up['q1'])}–{digits(speed_up['q3'])})",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def footnote(report: dict[str, Any]) -> str:
    """How to read the table, and what it was measured on."""
    threads = report["machine"]["threads"]
    return (
        "Speed-up is the peer's time over ours, pair by pair: above 1, fusion_engine is faster. "
        f"Medians of {report['pairs']} alternating pairs, {threads} threads on either side, the "
        f"answers compared first. {measured_on(report)}"
    )


def measured_on(report: dict[str, Any]) -> str:
    """The machine and the software, when, and what else went on."""
    machine = report["machine"]
    libraries = ", ".join(
        f"{name} {version}" for name, version in machine["libraries"].items() if version
    )
    others = [r["other_cores"] for r in report["results"] if r.get("other_cores") is not None]
    quiet = f" Other processes used at most {max(others):.2f} cores." if others else ""
    instructions = f" ({', '.join(machine['instructions'])})" if "instructions" in machine else ""
    return (
        f"{machine['cpu']}{instructions}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, "
        f"{machine['os']}; Python {machine['python']}, {libraries}; {report['date']}.{quiet}"
    )


if __name__ == "__main__":
    sys.exit(main())
