"""The Markdown table of a file of rows: `python -m benchmarks.table ROWS.jsonl [...]`, one table a case."""

import json
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

HEADER = (
    "| contender | p50 ms (p20 to p80) | GB/s | of floor | ours is faster by | peak MB |\n|---|---|---|---|---|---|"
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file written by `python -m benchmarks --out`."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """All rows as Markdown: the environment once where it stays the same, then a table for each case."""
    parts = []
    last_environment = None
    for key, group in groupby(rows, key=lambda row: (row["case"], tuple(row["shape"]), row["dtype"])):
        members = list(group)
        environment = members[0]["environment"]
        if environment != last_environment:
            parts.append(", ".join(f"{name} {value}" for name, value in environment.items()))
            last_environment = environment
        name, shape, dtype = key
        floor = next((row for row in members if row.get("floor")), None)
        measured = f"; floor: {floor['floor']}, {floor['floor_gb_per_s']:.1f} GB/s" if floor else ""
        parts.append(f"**{name}**, {' x '.join(map(str, shape))} {dtype}{measured}")
        ours = next((row for row in members if row["contender"] == "fluxcore"), {})
        parts.append("\n".join([HEADER, *(_line(row, ours.get("p50_ms")) for row in members)]))
    return "\n\n".join(parts) + "\n"


def _line(row: Mapping[str, Any], ours_ms: float | None) -> str:
    if row["status"] != "ok":
        return f"| {row['contender']} | {row['status']} | | | | |"
    time = f"{row['p50_ms']:.2f} ({row['p20_ms']:.2f} to {row['p80_ms']:.2f})"
    if row.get("expected_ms") is not None:
        time += f", expected {row['expected_ms']:.2f}"
    faster = "" if ours_ms is None or row["contender"] == "fluxcore" else f"{row['p50_ms'] / ours_ms:.1f}x"
    peak = "unknown" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
    return (
        f"| {row['contender']} | {time} | {row['gb_per_s']:.1f} | {100 * row['floor_share']:.0f}% | {faster} | {peak} |"
    )


if __name__ == "__main__":
    sys.stdout.write(markdown(row for path in sys.argv[1:] for row in read_rows(Path(path))))
