"""The tables of rows: `python -m benchmarks.data.report ROWS.jsonl`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.goals import verdicts
from benchmarks.data.measures import MEASURES, Measure
from benchmarks.data.quoted import quoted_table
from benchmarks.harness import OURS
from benchmarks.table import read_rows

TOKENS_ALONE = "fluxcore, tokens alone"
"""Ours as the rivals are, which hand out no targets."""


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each measure, ours first, the environment above; what is quoted has tables of its own."""
    parts = []
    if rows:
        parts.append(", ".join(f"{name} {value}" for name, value in rows[0]["environment"].items()))
    for name, measure in MEASURES.items():
        members = {row["contender"]: row for row in rows if row["measure"] == name}
        if not members:
            continue
        parts.append(_table(measure, members))
        if (others := quoted_table(name)) is not None:
            parts.append(others)
    return "\n\n".join(parts) + "\n"


def _table(measure: Measure, members: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"| {measure.title} | {measure.unit} | ours is better by | its tokens alone by | | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in members.values():
        if row["status"] != "ok":
            lines.append(f"| {row['contender']} | {row['status']} | | | | | |")
            continue
        ours, alone = (_better(members, name, row, measure) for name in (OURS, TOKENS_ALONE))
        target, reached = verdicts(row, members)
        cells = (row["contender"], _number(row["value"], 3), ours, alone, row["note"], target, reached)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _better(members: Mapping[str, Mapping[str, Any]], ours: str, row: Mapping[str, Any], measure: Measure) -> str:
    """How many times better the row called `ours` is than `row`; nothing of what is ours, or where it means nothing."""
    value = members.get(ours, {}).get("value")
    if value is None or row["contender"] == ours or not measure.ratios:
        return ""
    top, bottom = (value, row["value"]) if measure.higher_is_better else (row["value"], value)
    # A share of nothing has no ratio, nor has memory that shrank.
    return f"{_number(top / bottom, 2)}x" if min(top, bottom) > 0 else ""


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


if __name__ == "__main__":
    sys.stdout.write(markdown([row for path in sys.argv[1:] for row in read_rows(Path(path))]))
