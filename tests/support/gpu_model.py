"""What share of a copy's bandwidth a kernel can reach on a GPU that is not here, from its machine code.

A prediction, not a measurement: it counts issue slots, arithmetic and special functions of the loops over a row against
the rates of the chip, and takes the worst. It knows nothing of latency, occupancy, caches or the edges of rows.
"""

from dataclasses import dataclass

from support.aot import Report

ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class Chip:
    """Rates of a GPU; a lane is one thread's share of one instruction."""

    name: str
    processors: int
    clock: float
    """Hz, boost."""
    copy_rate: float
    """Bytes that a copy moves a second, read and written together."""
    issue: int
    """Lanes that a multiprocessor issues a cycle."""
    multiply_add: int
    special: int
    double: int
    """Of float64 arithmetic."""


CHIPS = {
    "sm_80": Chip("A100 SXM 80 GB", 108, 1.41e9, 0.9 * 2.04e12, 128, 64, 16, 32),
    "sm_90": Chip("H200", 132, 1.755e9, 4.3e12, 128, 128, 16, 64),
    "sm_100": Chip("B200", 148, 1.85e9, 0.9 * 8.0e12, 128, 128, 16, 64),
    "gfx942": Chip("MI300X", 304, 2.1e9, 0.8 * 5.3e12, 64, 64, 16, 64),
}


def bytes_moved(report: Report) -> int:
    """Bytes that an element, or a pair, of the report's case moves to or from memory at least."""
    op, _, dtype, variant = report.case.split("/")
    match report.kernel:
        case "ortho_sums_kernel" | "ortho_rest_kernel":
            return 16 if variant == "update" else 8
        case "ortho_step_kernel":
            return 28 if op == "ortho_adamw" else 12
        case "histogram_kernel":
            return 1 + (0 if variant == "random" else ELEMENT_BYTES[dtype])
        case "prune_apply_kernel":  # moments are written where something changes alone
            return 2 + ELEMENT_BYTES[dtype] * (3 if variant == "gradient" else 2)
    reads = 2 if op.startswith("kl_div") or "probabilities" in variant else 1
    writes = op.endswith("_bwd") or variant.endswith("+gradient")
    return ELEMENT_BYTES[dtype] * (reads + writes)


def share_of_copy(report: Report) -> float:
    """At most 1."""
    chip = CHIPS[report.arch]
    cycles = max(
        report.instructions / chip.issue,
        report.multiply_adds / chip.multiply_add,
        report.special / chip.special,
        report.doubles / chip.double,
    )
    rate = chip.processors * chip.clock * bytes_moved(report) / cycles
    return min(1.0, rate / chip.copy_rate)
