"""Kernels compile for GPUs that are not here, without spills, with wide loads, and within their instruction budgets.

A budget is the number of instructions an element in the loops over a row at V = 50257, or over the elements of a
tensor that is pruned, as recorded for each target in aot_budgets.json. When a change is meant to cost or save some,
record anew, and write the table of the page:

    FLUXCORE_RECORD_BUDGETS=1 pytest tests/kernels/test_aot.py -m "slow or not slow"
    PYTHONPATH=tests python -m support.gate_table
"""

import os

import pytest
from support import aot, machine_code
from support.aot_cases import CASES
from support.gate_table import BEGIN, END, PAGE, read_budgets, table, write_budgets
from support.gpu_model import CHIPS, share_of_copy

REPRESENTATIVE = [
    *(f"softmax_stats_fwd/loop-50257/bf16/all-but-top-k:{arch}" for arch in CHIPS),
    "softmax_stats_bwd/loop-50257/fp32/all-but-top-k:sm_90",
    "softmax_stats_fwd/rows-257/fp32/logprob+entropy:sm_90",
    "softmax_stats_bwd/split-50304/fp64/all-but-top-k:sm_90",
    "softmax_stats_fwd/loop-50257/bf16/all-k8:sm_90",
    *(f"kl_div_fwd/loop-50257/bf16/policy_ref:{arch}" for arch in ("sm_90", "gfx942")),
    "kl_div_bwd/loop-50257/fp16/policy_ref:sm_90",
    "kl_div_fwd/loop-50257/bf16/jsd:sm_90",
    "cross_entropy_bwd/loop-50257/bf16/plain:sm_90",
    *(f"cross_entropy_fwd/loop-50257/bf16/plain+gradient:{arch}" for arch in CHIPS),
    "cross_entropy_bwd/loop-50257/bf16/probabilities:sm_80",
    "cross_entropy_fwd/loop-50257/bf16/smooth-weights+gradient:sm_90",
    "cross_entropy_fwd/rows-1000/bf16/plain+gradient:sm_90",
    "cross_entropy_fwd/split-50304/fp64/plain+gradient:sm_100",
    *(f"ortho_adamw/loop/fp32/update:{arch}" for arch in ("sm_90", "gfx942")),
    "prune_apply/tiles/bf16/noise:sm_90",
    "gae/rows-time-last/fp32/mask+ratio:sm_90",
    "prune_select/tiles/fp32/magnitude:sm_90",
]


SEVERAL_KERNELS = ("ortho",)


def check(wanted: list[str], processes: int) -> None:
    """Compile, print a table, and check what holds for every kernel; those that have a budget against it."""
    found = aot.reports("support.aot_cases", wanted, processes)
    for report in found:
        print(f"{report.case:60}{report.kernel:32}{report.arch:8}{report.registers:5}{report.instructions:9.2f}")
    assert {report.case + ":" + report.arch for report in found} == set(wanted)
    assert not [report for report in found if report.local_bytes], "spills"
    loops = [report for report in found if report.instructions and "/rows" not in report.case]
    narrow = [report for report in loops if not report.wide_loads or report.narrow_loads > masks(report.case)]
    assert not narrow, "loads not of 16 bytes"
    # A search for the top k compares what the lanes found; a selection counts in shared memory.
    waiting = [report for report in loops if report.exchanges and not may_exchange(report.case)]
    assert not waiting, "threads wait for each other in the loop"
    check_budgets([report for report in loops if has_budget(report.case)])


def has_budget(case: str) -> bool:
    """Of a loop over a row, or over tiles of a tensor."""
    return "/loop" in case or "/tiles/" in case


def masks(case: str) -> int:
    """Loads of eight flags, of a byte each, beside eight weights."""
    return 1 if case.startswith("prune_apply") else 0


def may_exchange(case: str) -> bool:
    return case.startswith("prune") or ("fwd" in case and ("k8" in case or "top_k_mass" in case))


def budget_name(report: aot.Report) -> str:
    """The case; and a word more where several kernels share the work."""
    if report.case.startswith(SEVERAL_KERNELS):
        return f"{report.case}/{report.kernel.removesuffix('_kernel')}"
    if report.kernel == "histogram_kernel":
        return f"{report.case}/pass {report.launch + 1}"
    refused = report.kernel == "kl_div_twice_kernel" and not report.case.endswith("/jsd")
    return f"{report.case}/refused rows" if refused else report.case


def check_budgets(found: list[aot.Report]) -> None:
    budgets = read_budgets()
    if os.environ.get("FLUXCORE_RECORD_BUDGETS"):
        for report in found:
            budget = {"instructions": round(report.instructions, 2), "share": round(share_of_copy(report), 3)}
            budgets.setdefault(budget_name(report), {})[report.arch] = budget
        write_budgets(budgets)
        return
    over = [
        (report, budget)
        for report in found
        for budget in [budgets[budget_name(report)][report.arch]["instructions"]]
        if report.instructions > 1.02 * budget + 0.005
    ]
    assert not over, "more instructions an element than recorded"


def test_representative_kernels():
    check(REPRESENTATIVE, processes=1)


def test_the_page_shows_what_is_recorded():
    shown = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert shown == table(read_budgets())


def test_every_case_in_the_loop_has_a_budget_for_every_target():
    budgets = read_budgets()
    assert {"/".join(name.split("/")[:4]) for name in budgets} == set(filter(has_budget, CASES))
    assert all(set(targets) == set(CHIPS) for targets in budgets.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arch", CHIPS)
def test_every_kernel(arch):
    check([f"{case}:{arch}" for case in CASES], processes=2)


def test_a_kernel_that_spills_or_loads_narrowly_is_caught():
    """The gate itself: a kernel that keeps a big tile live, from an address that nothing is known about."""
    (report,) = aot.reports("support.aot_spilling_case", ["spills:sm_90"])
    assert report.local_bytes > 0
    assert report.wide_loads == 0


def test_a_jump_back_out_of_a_rare_block_is_no_loop():
    """The gate itself: two loops and a nested one, and a block at the end that jumps back in front of the last two."""
    code = machine_code.read_amd(
        """
        .vgpr_count: 8
        .private_segment_fixed_size: 0
        .LBB0_1:
          global_load_dwordx4 v[0:3], v4
          v_exp_f32_e32 v0, v0
          v_exp_f32_e32 v1, v1
          s_cbranch_scc1 .LBB0_1
          s_cbranch_vccnz .LBB0_9
        .LBB0_2:
          global_load_ushort v1, v4
        .LBB0_3:
          v_exp_f32_e32 v0, v0
          s_cbranch_execz .LBB0_5
        .LBB0_4:
          ds_read_b32 v3, v2
          s_cbranch_scc1 .LBB0_4
        .LBB0_5:
          global_store_dword v9, v2
          s_cbranch_scc0 .LBB0_3
          s_endpgm
        .LBB0_9:
          s_barrier
          s_branch .LBB0_2
        """.replace("\n        ", "\n")
    )
    scan, store = code.passes()
    assert [len(scan), len(store)] == [4, 4]
    assert machine_code.count(code.dialect.wide_load, scan) == 1
    assert machine_code.count(code.dialect.work, store) == 1
    assert not machine_code.count(code.dialect.exchange, scan + store)
