"""What share of a copy's bandwidth a kernel can reach on a GPU that is not here, from its machine code.

A prediction, not a measurement: it counts issue slots, multiply-adds and special functions of the hot loop against the
rates of the chip, and takes the worst. It knows nothing of latency, occupancy, caches or the edges of rows.
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


CHIPS = {
    "sm_80": Chip("A100 SXM 80 GB", 108, 1.41e9, 0.9 * 2.04e12, 128, 64, 16),
    "sm_90": Chip("H200", 132, 1.755e9, 4.3e12, 128, 128, 16),
    "sm_100": Chip("B200", 148, 1.85e9, 0.9 * 8.0e12, 128, 128, 16),
    "gfx942": Chip("MI300X", 304, 2.1e9, 0.8 * 5.3e12, 64, 64, 16),
}


def bytes_moved(report: Report) -> int:
    """Bytes that an element, or a pair, of the report's case moves to or from memory at least."""
    op, dtype = report.case.split("/")[0], report.case.split("/")[2]
    reads = 2 if op.startswith("kl_div") else 1
    return ELEMENT_BYTES[dtype] * (reads + op.endswith("_bwd"))


def share_of_copy(report: Report) -> float:
    """At most 1."""
    chip = CHIPS[report.arch]
    cycles = max(
        report.instructions / chip.issue, report.multiply_adds / chip.multiply_add, report.special / chip.special
    )
    rate = chip.processors * chip.clock * bytes_moved(report) * report.elements / cycles
    return min(1.0, rate / chip.copy_rate)
