"""Compile kernels for GPUs that are not here, and read from the machine code what can be known without running it.

A case is a function that calls a launcher on CPU tensors; the launch is recorded and compiled exactly as it would be
launched. Run as a program (Triton must not be in interpreter mode, so it needs a process of its own):

    python -m support.aot MODULE CASE:ARCH ...

prints one JSON object a kernel. MODULE has a dict CASES of case functions; ARCH is sm_90, gfx942, ...
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from support import machine_code
from support.machine_code import count

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}
LAUNCH_OPTIONS = ("num_warps", "num_stages", "maxnreg")


@dataclass
class Report:
    """What the machine code of one kernel says."""

    case: str
    kernel: str
    launch: int
    """Its place among the launches of the case."""
    arch: str
    registers: int
    local_bytes: int
    """Local memory of a thread: spills and arrays."""
    wide_loads: int
    """16-byte global loads in the hot part: the loops over a row, or all if there are none."""
    narrow_loads: int
    """Other global loads there."""
    exchanges: int
    """Exchanges between threads there: shuffles, shared memory and barriers."""
    instructions: float
    """Instructions there, for an element or a pair of them; this and all below is 0 for a merge of rows' parts."""
    special: float
    """Special-function instructions there, for an element: exponentials, logarithms, reciprocals and roots."""
    multiply_adds: float
    """Additions, multiplications and both at once there, for an element, in float32."""
    doubles: float
    """Arithmetic there, for an element, in float64."""


@dataclass
class Launch:
    """One recorded launch."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, int]


def record(case: Callable[[], None]) -> list[Launch]:
    """Launches that `case` makes; nothing runs."""
    launches: list[Launch] = []
    run = JITFunction.run

    def note(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in LAUNCH_OPTIONS if name in kwargs}
        launches.append(Launch(self, dict(zip(self.arg_names, args, strict=False)) | kwargs, options))

    JITFunction.run = note
    try:
        case()
    finally:
        JITFunction.run = run
    return launches


def compile_launch(launch: Launch, arch: str) -> CompiledKernel:
    """Compile for `arch`, arguments specialised as at a real launch."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif parameter.annotation_type:
            signature[name] = parameter.annotation_type
        else:
            assert parameter.do_not_specialize, f"`{name}`: recording specialised integers is not supported"
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
    options = dict(launch.options)
    if arch.startswith("gfx"):
        target = GPUTarget("hip", arch, 64)
        if "num_stages" in options:
            options["num_stages"] = min(2, options["num_stages"])  # as the launchers do there
        options.pop("maxnreg", None)
        options["num_warps"] = max(1, options["num_warps"] // 2)  # as the launchers do there: the same threads
    else:
        target = GPUTarget("cuda", int(arch[3:]), 32)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options)


def inspect(case: str, arch: str, number: int, launch: Launch) -> Report:
    """Compile and read the launch of this number."""
    assembly = compile_launch(launch, arch).asm
    amd = arch.startswith("gfx")
    code = machine_code.read_amd(assembly["amdgcn"]) if amd else machine_code.read_cuda(assembly["cubin"])
    given, dialect = launch.arguments, code.dialect
    if given.get("READS") == 3:
        passes = code.two_hottest()
    elif "TILES" in given:  # what is done to an element need not be arithmetic
        passes = code.streams()
    else:
        passes = code.passes()
    hot = [operation for operations in passes for operation in operations]
    wide_loads = count(dialect.wide_load, hot)

    def per_element(pattern: str) -> float:
        if "DEPTH" not in given:
            return 0
        total = 0.0
        for operations in passes:
            depth = given["DEPTH"]
            if count(dialect.store, operations):  # the gradient of rows, which a forward kernel takes in smaller tiles
                depth = given.get("GRADIENT_DEPTH", depth)
            total += count(pattern, operations) / (depth * given["VEC"])
        return total

    return Report(
        case=case,
        kernel=launch.kernel.__name__,
        launch=number,
        arch=arch,
        registers=code.registers,
        local_bytes=code.local_bytes,
        wide_loads=wide_loads,
        narrow_loads=count(dialect.load, hot) - wide_loads,
        exchanges=count(dialect.exchange, hot),
        instructions=per_element(""),
        special=per_element(dialect.special),
        multiply_adds=per_element(dialect.multiply_add),
        doubles=per_element(dialect.double),
    )


def reports(module: str, wanted: list[str], processes: int = 1) -> list[Report]:
    """Reports of the cases `wanted` ("CASE:ARCH") of the dict CASES in `module`, made in processes of their own."""
    with ThreadPoolExecutor(processes) as workers:
        parts = list(workers.map(lambda i: _reports(module, wanted[i::processes]), range(processes)))
    return [report for part in parts for report in part]


def _reports(module: str, wanted: list[str]) -> list[Report]:
    tests = str(Path(__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "support.aot", module, *wanted]
    result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [Report(**json.loads(line)) for line in result.stdout.splitlines()]


def main(module: str, *wanted: str) -> None:
    """Print the reports."""
    cases = importlib.import_module(module).CASES
    for item in wanted:
        case, arch = item.rsplit(":", 1)
        for number, launch in enumerate(record(cases[case])):
            print(json.dumps(asdict(inspect(case, arch, number, launch))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
