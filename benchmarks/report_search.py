"""The search suite's table."""

from collections.abc import Sequence
from typing import Any

from .report_gpu import digits


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per comparison, with memory and recall."""
    lines = [
        "| case | fusion_engine, s | memory, GiB | recall@10 | peer | peer, s | memory, GiB "
        "| speed-up (quartiles) |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for record in results:
        if "skipped" in record:
            cells = [record["title"], "", "", "", record["peer"], "not run", "", record["skipped"]]
        else:
            speed_up = record["speed_up"]
            cells = [
                record["title"],
                digits(record["ours_ms"]["median"] / 1e3),
                digits(record["ours_process"]["peak_gib"]),
                f"{record.get('recall_at_10', 1.0):.3f}",
                record["peer"],
                digits(record["peer_ms"]["median"] / 1e3),
                digits(record["peer_process"]["peak_gib"]),
                f"**{digits(speed_up['median'])}×** "
                f"({digits(speed_up['q1'])}–{digits(speed_up['q3'])})",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    built = [record for record in results if "build_seconds" in record]
    notes = "".join(
        f"\n{record['title']}: built in {record['build_seconds'] / 60:.1f} min with "
        f"{digits(record['build_gib'])} GiB of memory, opened in {record['open_seconds']:.2f} s.\n"
        for record in built
    )
    return "\n".join(lines) + "\n" + notes
