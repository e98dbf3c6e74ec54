"""The corpus suite's table, and what the documentation says of it."""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]

# Its speed is what no run from files can reach.
ALONE = "fusion_engine on decoded samples"


def table(results: Sequence[Record]) -> str:
    """One row per comparison; how fast in seconds of audio a second."""
    lines = [
        "| corpus | fusion_engine, × real time | cores busy | memory, GiB | peer | × real time "
        "| cores busy | memory, GiB | speed-up (quartiles) |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for record in results:
        speed_up = record["speed_up"]
        cells = [
            record["title"],
            *_side(record, "ours"),
            record["peer"],
            *_side(record, "peer"),
            f"**{speed_up['median']:.2f}×** ({speed_up['q1']:.2f}–{speed_up['q3']:.2f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(report: dict[str, Any]) -> str:
    """What the documentation says of the suite: a line per comparison."""
    machine = report["machine"]
    lines = [f"Measured on {machine['cores']} cores ({machine['cpu']}), {report['date']}:", ""]
    for record in report["results"]:
        real_time, busy, _ = _side(record, "ours")
        speed_up = record["speed_up"]["median"]
        if record["peer"] == ALONE:
            compared = f"{100 * speed_up:.0f} % of the engine's speed on samples in memory"
        else:
            compared = f"{speed_up:.1f} times the speed of {record['peer']}"
        lines.append(
            f"- {record['title']}: {real_time} times real time, the cores {busy} busy, {compared}."
        )
    return "\n".join(lines) + "\n"


def _side(record: Record, side: str) -> tuple[str, str, str]:
    """How fast, how busy the cores, and the most memory."""
    process = record[f"{side}_process"]
    real_time = 1e3 * record["audio_seconds"] / record[f"{side}_ms"]["median"]
    busy = f"{100 * process['cpu_utilisation']:.0f} %"
    return f"{real_time:.0f}", busy, f"{process['peak_gib']:.2f}"
