"""Machine code of the kernels that make logits by a matrix product of their own; as aot.py, of which this is a part.

A case is named OP/BLOCK/DTYPE/VARIANT. Run as a program:

    python -m support.aot_products CASE:ARCH ...

prints one JSON object for the kernel with the product.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fluxcore.kernels.linear_stats import launch_linear_stats_fwd

from support import aot, machine_code
from support.machine_code import Code, count

SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
"""Most that a program can have."""
MATRIX = r"\b(?:HMMA|HGMMA|UTC\w*MMA|v_mfma\w+)"
"""Instructions of tensor cores."""
COPY = r"\bLDGSTS\b|\bLDG\b|\b(?:global|buffer)_load_"
"""Loads of the factors, into shared memory or registers."""
WIDE_COPY = r"\bLDGSTS\b.*\.128\b|\bLDG\b.*\.128\b|\b(?:global|buffer)_load_dwordx4"


@dataclass
class ProductReport:
    """What the machine code of one kernel says."""

    case: str
    arch: str
    registers: int
    local_bytes: int
    """Local memory of a thread: spills and arrays."""
    shared_bytes: int
    """Of a program."""
    matrix: int
    """Instructions of tensor cores in the loop over the hidden size."""
    wide_copies: int
    """16-byte loads of the factors there."""
    narrow_copies: int
    """Other loads there."""
    instructions: float
    """For a logit, of the loop over the classes without that of the product; the block that few tiles enter is in."""


def linear_stats(
    dtype: torch.dtype, outputs: int, *, softcap: float = 0.0, bias: bool = False, compacted: bool = False
) -> None:
    """Launch for 512 rows of 768 hidden states and 50257 classes."""
    N, D, V = 512, 768, 50257
    x, weight = torch.empty((N, D), dtype=dtype), torch.empty((V, D), dtype=dtype)
    target = torch.empty(N, dtype=torch.int64) if outputs & 2 else None
    stats, state = torch.empty((outputs.bit_count(), N)), torch.empty((6, N))
    argmax = torch.empty(N, dtype=torch.int64)
    bias_or_none = torch.empty(V, dtype=dtype) if bias else None
    order = (argmax, torch.empty((), dtype=torch.int64)) if compacted else ()
    launch_linear_stats_fwd(x, weight, bias_or_none, target, outputs, 1.0, softcap, stats, argmax, state, *order)


_VARIANTS: dict[str, dict[str, Any]] = {
    "logprob": {"outputs": 0b10},
    "logprob+entropy": {"outputs": 0b110},
    "all-but-top-k": {"outputs": 0b111111},
    "logprob-compacted": {"outputs": 0b10, "compacted": True},
    "softcap-bias": {"outputs": 0b110, "softcap": 30.0, "bias": True},
}
_OF_EVERY_DTYPE = ("logprob+entropy",)
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CASES: dict[str, Callable[[], None]] = {
    f"linear_stats_fwd/768/{dtype}/{variant}": partial(linear_stats, _DTYPES[dtype], **_VARIANTS[variant])
    for dtype, variant in product(_DTYPES, _VARIANTS)
    if dtype == "bf16" or variant in _OF_EVERY_DTYPE
}


def inspect(case: str, arch: str) -> ProductReport:
    """Compile and read the first launch of a case."""
    launch = aot.record(CASES[case])[0]
    compiled = aot.compile_launch(launch, arch)
    amd = arch.startswith("gfx")
    code = machine_code.read_amd(compiled.asm["amdgcn"]) if amd else machine_code.read_cuda(compiled.asm["cubin"])
    given = launch.arguments
    threads = 32 * launch.options["num_warps"]
    inner = _loop_of_products(code, by_tensor_cores=case.split("/")[2] != "fp32")
    (outer,) = code.passes()
    wide = count(WIDE_COPY, inner)
    return ProductReport(
        case=case,
        arch=arch,
        registers=code.registers,
        local_bytes=code.local_bytes,
        shared_bytes=compiled.metadata.shared,
        matrix=count(MATRIX, inner),
        wide_copies=wide,
        narrow_copies=count(COPY, inner) - wide,
        instructions=len(outer) * threads / (given["BLOCK_N"] * given["BLOCK_V"]),
    )


def _loop_of_products(code: Code, *, by_tensor_cores: bool) -> list[str]:
    """Instructions of the loop over the hidden size."""
    work = MATRIX if by_tensor_cores else rf"{code.dialect.multiply_add}|{MATRIX}"
    passes = replace(code, dialect=replace(code.dialect, work=work)).passes()
    # A compiler may peel a turn of it into the loop around it, which is longer.
    return max(passes, key=lambda operations: (count(WIDE_COPY, operations), -len(operations)))


def reports(wanted: list[str]) -> list[ProductReport]:
    """Reports of the cases `wanted` ("CASE:ARCH"), made in a process of its own."""
    tests = str(Path(__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "support.aot_products", *wanted]
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [ProductReport(**json.loads(line)) for line in result.stdout.splitlines()]


def main(*wanted: str) -> None:
    """Print the reports."""
    for item in wanted:
        case, arch = item.rsplit(":", 1)
        print(json.dumps(asdict(inspect(case, arch))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
