"""Write the table of docs/gpu_gate.md from the figures that the gate recorded (tests/kernels/test_aot.py).

PYTHONPATH=tests python -m support.gate_table
"""

import json
from pathlib import Path
from typing import TypedDict

from support.gpu_model import CHIPS

BUDGETS = Path(__file__).parents[1] / "kernels/aot_budgets.json"
PAGE = Path(__file__).parents[2] / "docs/gpu_gate.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


class Budget(TypedDict):
    """What was recorded of one kernel on one target."""

    instructions: float
    """For an element."""
    share: float
    """Of the copy rate that is predicted, at most 1."""


Budgets = dict[str, dict[str, Budget]]
"""By case and target."""


def read_budgets() -> Budgets:
    """All that are recorded."""
    budgets: Budgets = json.loads(BUDGETS.read_text())
    return budgets


def write_budgets(budgets: Budgets) -> None:
    """A case a line, in order."""
    lines = (f"{json.dumps(case)}: {json.dumps(budgets[case], sort_keys=True)}" for case in sorted(budgets))
    BUDGETS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def table(budgets: Budgets) -> str:
    """A row for each kernel, variant and data type, a column for each target."""
    rows = [f"| pass | variant | dtype | {' | '.join(CHIPS)} |\n|---|---|---|{'--:|' * len(CHIPS)}\n"]
    names = sorted(budgets, key=lambda case: case.split("/")[:1] + case.split("/")[3:] + case.split("/")[2:3])
    for case in names:
        op, _, dtype, variant = case.split("/", 3)
        figures = (
            f"{found['instructions']:.1f} / {found['share']:.0%}" for found in (budgets[case][arch] for arch in CHIPS)
        )
        rows.append(f"| {op} | {variant.replace('/', ', ')} | {dtype} | {' | '.join(figures)} |\n")
    return "".join(rows)


def main() -> None:
    """Replace the table of the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table(read_budgets()) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
