"""Kernels compile for GPUs that are not here, without spills, with wide loads, and within their instruction budgets.

A budget is the number of instructions an element in the hot loop for an H200 (sm_90), as recorded in aot_budgets.json.
When a change is meant to cost or save some, record anew:
FLUXCORE_RECORD_BUDGETS=1 pytest tests/kernels/test_aot.py
"""

import json
import os
from pathlib import Path

import pytest
from support import aot
from support.aot_cases import CASES
from support.gpu_model import share_of_copy

BUDGETS = Path(__file__).with_name("aot_budgets.json")
ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")

REPRESENTATIVE = [
    *(f"softmax_stats_{way}/loop-50257/bf16/all-but-top-k:{arch}" for way in ("fwd", "bwd") for arch in ARCHS),
    *(f"softmax_stats_{way}/rows-257/fp32/all-but-top-k:sm_90" for way in ("fwd", "bwd")),
    *(f"softmax_stats_{way}/split-50304/fp64/all-but-top-k:sm_90" for way in ("fwd", "bwd")),
    "softmax_stats_fwd/loop-50257/bf16/logprob+entropy:sm_90",
    "softmax_stats_fwd/loop-50257/bf16/all-k8:sm_90",
    "softmax_stats_bwd/rows-1000/fp16/softcap:sm_90",
    *(f"kl_div_fwd/loop-50257/bf16/policy_ref:{arch}" for arch in ("sm_90", "gfx942")),
    "kl_div_bwd/loop-50257/bf16/policy_ref:sm_90",
    "kl_div_fwd/loop-50257/bf16/jsd:sm_90",
    "kl_div_fwd/rows-257/fp32/ref_policy:sm_90",
    "kl_div_fwd/split-50304/fp16/policy_ref:sm_90",
    *(f"cross_entropy_{way}/loop-50257/bf16/plain:sm_90" for way in ("fwd", "bwd")),
    "cross_entropy_fwd/loop-50257/bf16/plain+gradient:sm_90",
]
EVERYTHING = [f"{case}:{arch}" for case in CASES for arch in ARCHS]


def check(wanted: list[str]) -> list[aot.Report]:
    """Compile, print the table, and check what holds for every kernel; returns the reports."""
    found = aot.reports("support.aot_cases", wanted)
    print(table(found))
    for report in found:
        assert report.local_bytes == 0, f"spills: {report}"
        # The hot loop is found by its exponentials: float64 has none in hardware, the top k a second loop with some.
        if not report.elements or "fp64" in report.case or "k8" in report.case:
            continue
        assert report.wide_loads > 0, f"no 16-byte loads: {report}"
        if "loop" in report.case:
            assert report.narrow_loads == 0, f"narrow loads in the loop: {report}"
            assert report.shuffles == 0, f"threads wait for each other in the loop: {report}"
    return found


def table(found: list[aot.Report]) -> str:
    lines = [f"{'case':84}{'arch':>8}{'regs':>6}{'instr/elem':>12}{'of the copy rate':>18}"]
    for report in found:
        if not report.elements:
            continue
        cost = report.instructions / report.elements
        share = ""
        if report.arch == "sm_90" and is_budgeted(report):
            share = f"{share_of_copy(report):.0%}"
        lines.append(f"{budget_name(report):84}{report.arch:>8}{report.registers:>6}{cost:>12.2f}{share:>18}")
    return "\n".join(lines)


def is_budgeted(report: aot.Report) -> bool:
    return report.elements > 0 and "/loop" in report.case and "fp64" not in report.case and "k8" not in report.case


def budget_name(report: aot.Report) -> str:
    """The case; with the kernel for one that takes the rows which another kernel refused."""
    refused = report.kernel == "kl_div_twice_kernel" and not report.case.endswith("/jsd")
    return f"{report.case}/refused" if refused else report.case


def check_budgets(found: list[aot.Report]) -> None:
    recorded = json.loads(BUDGETS.read_text())
    costs = {
        budget_name(report): round(report.instructions / report.elements, 2)
        for report in found
        if report.arch == "sm_90" and is_budgeted(report)
    }
    if os.environ.get("FLUXCORE_RECORD_BUDGETS"):
        BUDGETS.write_text(json.dumps(recorded | costs, indent=1, sort_keys=True) + "\n")
        return
    assert costs
    over = {case: (cost, recorded[case]) for case, cost in costs.items() if cost > 1.02 * recorded[case]}
    assert not over, f"instructions an element over budget (now, budget): {over}"


def test_representative_kernels():
    found = check(REPRESENTATIVE)
    assert {report.arch for report in found} == set(ARCHS)
    check_budgets(found)
    (near,) = (r for r in found if r.kernel == "kl_div_near_kernel" and r.arch == "sm_90" and "/loop" in r.case)
    # Two exponentials a pair; the rest, a few in a tile, are roots and reciprocals.
    assert 2 <= near.special / near.elements < 2.5


def test_the_page_shows_the_recorded_budgets():
    page = Path(__file__).parents[2] / "docs/gpu_gate.md"
    if not page.exists():
        pytest.skip("the documentation is in the checkout only")
    recorded = json.loads(BUDGETS.read_text())
    rows = [[cell.strip() for cell in line.split("|")] for line in page.read_text().splitlines() if "| sm_90 |" in line]
    shown = {}
    for _, kernel, dtype, _, cost, *_ in rows[1:]:  # the first is the chip's
        if cost == "–":
            continue
        name, op, variant = kernel.replace("`", "").split()
        refused = "/refused" if "twice" in name and variant != "jsd" else ""
        way = "bwd" if "_bwd_" in name else "fwd"
        shown[f"{op}_{way}/loop-50257/{dtype}/{variant}{refused}"] = float(cost)
    assert shown
    assert shown == {case: recorded[case] for case in shown}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel(arch):
    found = check([item for item in EVERYTHING if item.endswith(arch)])
    if arch == "sm_90":
        check_budgets(found)


def test_a_kernel_that_spills_or_loads_narrowly_is_caught():
    """The gate itself: a kernel that keeps a big tile live, from an address that nothing is known about."""
    (report,) = aot.reports("support.aot_spilling_case", ["spills:sm_90"])
    assert report.local_bytes > 0
    assert report.wide_loads == 0
