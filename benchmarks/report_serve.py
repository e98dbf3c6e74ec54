"""The serve suite's table."""

from collections.abc import Sequence
from typing import Any

from .report_gpu import digits


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per number of clients."""
    lines = [
        "| requests at once | service, requests/s | p50, ms | p99, ms | `Engine.embed`, calls/s "
        "| p50, ms | p99, ms | service against engine |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for record in results:
        found = record.get("measured")
        if found is None:
            cells = [record["title"], "not run", "", "", "", "", "", record["skipped"]]
        else:
            figures = [
                found[f"{who}_{what}"]
                for who in ("served", "direct")
                for what in ("per_second", "p50_ms", "p99_ms")
            ]
            share = found["served_per_second"] / found["direct_per_second"]
            cells = [record["title"], *map(digits, figures), f"**{share:.2f}×**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
