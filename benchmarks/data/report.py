"""The tables of rows: `python -m benchmarks.data.report ROWS.jsonl`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.measures import MEASURES
from benchmarks.table import read_rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each measure, ours first, the environment above."""
    parts = []
    if rows:
        parts.append(", ".join(f"{name} {value}" for name, value in rows[0]["environment"].items()))
    for name, measure in MEASURES.items():
        members = [row for row in rows if row["measure"] == name]
        if not members:
            continue
        ours = next((row.get("value") for row in members if row["contender"] == "fluxcore"), None)
        lines = [f"| {measure.title} | {measure.unit} | ours is better by | |", "|---|---|---|---|"]
        lines += [_line(row, ours, higher=measure.higher_is_better) for row in members]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(row: Mapping[str, Any], ours: float | None, *, higher: bool) -> str:
    if row["status"] != "ok":
        return f"| {row['contender']} | {row['status']} | | |"
    value = row["value"]
    better = ""
    if ours is not None and row["contender"] != "fluxcore":
        top, bottom = (ours, value) if higher else (value, ours)
        # A share of nothing has no ratio, nor has memory that shrank.
        better = f"{top / bottom:.2g}x" if min(top, bottom) > 0 else ""
    return f"| {row['contender']} | {value:.3g} | {better} | {row['note']} |"


if __name__ == "__main__":
    sys.stdout.write(markdown([row for path in sys.argv[1:] for row in read_rows(Path(path))]))
