"""Kernels with a matrix product compile for GPUs that are not here: tensor cores, no spills, budgets of instructions.

A budget is the number of instructions for a logit beside the product, as recorded for each target in
aot_product_budgets.json. When a change is meant to cost or save some, record anew:

    FLUXCORE_RECORD_BUDGETS=1 pytest tests/kernels/test_aot_products.py -m "slow or not slow"
"""

import json
import os
from pathlib import Path

import pytest
from support.aot_products import CASES, SHARED_BYTES, reports

BUDGETS = Path(__file__).with_name("aot_product_budgets.json")
REPRESENTATIVE = [
    *(f"linear_stats_fwd/768/bf16/all-but-top-k:{arch}" for arch in SHARED_BYTES),
    "linear_stats_fwd/768/fp32/logprob+entropy:sm_90",
]


def check(wanted):
    found = reports(wanted)
    for report in found:
        print(
            f"{report.case:45}{report.arch:8}{report.registers:5}{report.shared_bytes:8}{report.matrix:5}"
            f"{report.wide_copies:4}{report.narrow_copies:4}{report.instructions:8.2f}"
        )
    assert [f"{report.case}:{report.arch}" for report in found] == list(wanted)
    assert not [report for report in found if report.local_bytes], "spills"
    assert not [report for report in found if report.shared_bytes > SHARED_BYTES[report.arch]], "too much shared memory"
    assert not [report for report in found if not report.wide_copies], "no loads of 16 bytes"
    # A bias is loaded by element, beside the loop over the hidden size or, on AMD, in what the reader takes for it.
    unbiased = [report for report in found if "bias" not in report.case]
    assert not [report for report in unbiased if report.narrow_copies], "loads not of 16 bytes"
    half = [report for report in found if "/fp32/" not in report.case]
    assert not [report for report in half if not report.matrix], "no tensor cores"
    check_budgets(found)


def check_budgets(found):
    budgets = json.loads(BUDGETS.read_text())
    if os.environ.get("FLUXCORE_RECORD_BUDGETS"):
        for report in found:
            budgets.setdefault(report.case, {})[report.arch] = round(report.instructions, 2)
        lines = (f"{json.dumps(case)}: {json.dumps(budgets[case], sort_keys=True)}" for case in sorted(budgets))
        BUDGETS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    over = [report for report in found if report.instructions > 1.02 * budgets[report.case][report.arch] + 0.005]
    assert not over, "more instructions a logit than recorded"


def test_representative_kernels():
    check(REPRESENTATIVE)


def test_every_case_has_a_budget_for_every_target():
    budgets = json.loads(BUDGETS.read_text())
    assert set(budgets) == set(CASES)
    assert all(set(targets) == set(SHARED_BYTES) for targets in budgets.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_every_kernel(arch):
    check([f"{case}:{arch}" for case in CASES])
