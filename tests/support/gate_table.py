"""Write the table of docs/gpu_gate.md: compile each kernel's loop at V = 50257 for each target and read its code.

    PYTHONPATH=tests python -m support.gate_table docs/gpu_gate.md [OP ...]

OP, such as kl_div_fwd, limits it to some; the rows of others stay as they are. Takes about ten minutes in all.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.aot import Report, reports
from support.aot_cases import CASES
from support.gpu_model import CHIPS, share_of_copy

SHAPE = "loop-50257"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
HEADER = (
    "| kernel | dtype | target | instructions an element | special functions an element | local memory, bytes | loads |"
    " share of a copy, predicted |\n|---|---|---|--:|--:|--:|---|--:|\n"
)


def row(report: Report) -> str:
    """A line of the table."""
    op, _, dtype, variant = report.case.split("/")
    cost, special = report.instructions / report.elements, report.special / report.elements
    loads = "16 bytes" if report.wide_loads and not report.narrow_loads else "mixed"
    # float64 has no special-function instructions, by which the hot loop is found.
    known = dtype != "fp64" and "k8" not in variant
    figures = f"{cost:.2f} | {special:.2f}" if known else "– | –"
    share = f"{share_of_copy(report):.0%}" if known else "–"
    kernel = f"`{report.kernel}` {op.removesuffix('_fwd').removesuffix('_bwd')} {variant}"
    loads = loads if known else "–"
    return f"| {kernel} | {dtype} | {report.arch} | {figures} | {report.local_bytes} | {loads} | {share} |\n"


def key(line: str) -> str:
    """What tells lines apart."""
    return "|".join(line.split("|")[1:4])


def main(page: str, *ops: str) -> None:
    """Replace the rows of `ops` in the page, or all."""
    wanted = [
        f"{case}:{arch}"
        for case in CASES
        for arch in CHIPS
        if f"/{SHAPE}/" in case and (not ops or case.split("/")[0] in ops)
    ]
    with ThreadPoolExecutor(2) as workers:
        halves = workers.map(lambda half: reports("support.aot_cases", half), (wanted[::2], wanted[1::2]))
        found = [report for half in halves for report in half]
    lines = {key(line): line for report in found if report.elements for line in [row(report)]}
    text = Path(page).read_text()
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    if ops:
        kept = {key(line): line + "\n" for line in table.splitlines() if line.startswith("| `")}
        lines = kept | lines
    Path(page).write_text(before + BEGIN + HEADER + "".join(lines[k] for k in sorted(lines)) + END + after)


if __name__ == "__main__":
    main(*sys.argv[1:])
