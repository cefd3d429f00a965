"""Figures of loaders that are not run here: `quoted.json` says where they come from; they have tables of their own."""

import json
from pathlib import Path
from typing import Any

_PATH = Path(__file__).with_name("quoted.json")


def quoted() -> dict[str, Any]:
    """`source`; then by measure and loader the lowest and the highest M tokens/s, or what was seen."""
    return json.loads(_PATH.read_text())


def quoted_table(measure: str) -> str | None:
    """The quoted rows of a measure, rates beside that of one loader in the same run; None if there are none."""
    kept = quoted()
    if measure not in kept:
        return None
    beside = kept["beside"]
    lines = [f"| quoted, not run here: {measure} | there | of {beside} there |", "|---|---|---|"]
    for name, seen in kept[measure].items():
        if isinstance(seen, str):
            lines.append(f"| {name} (quoted) | {seen} | |")
        else:
            ratio = sum(seen) / sum(kept[measure][beside])
            low, high = seen
            rate = f"{low}" if low == high else f"{low} to {high}"
            lines.append(f"| {name} (quoted) | {rate} M tokens/s | {ratio:.2f}x |")
    return f"Of another run ({kept['source']}); only ratios may be set beside the table above:\n\n" + "\n".join(lines)
