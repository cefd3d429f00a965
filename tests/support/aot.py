"""Compile kernels for GPUs that are not here, and read from the machine code what can be known without running it.

A case is a function that calls a launcher on CPU tensors; the launch is recorded and compiled exactly as it would be
launched. Run as a program (Triton must not be in interpreter mode, so it needs a process of its own):

    python -m support.aot MODULE CASE:ARCH ...

prints one JSON object a kernel. MODULE has a dict CASES of case functions; ARCH is sm_90, gfx942, ...
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
}
LAUNCH_OPTIONS = ("num_warps", "num_stages", "maxnreg")


@dataclass
class Report:
    """What the machine code of one kernel says."""

    case: str
    kernel: str
    arch: str
    registers: int
    local_bytes: int
    """Local memory of a thread: spills and arrays."""
    wide_loads: int
    """16-byte global loads in the hot part: the loop with most exponentials (the two with most, where a row is read
    twice), with most reciprocal roots if there are no exponentials, or all if neither is in a loop."""
    narrow_loads: int
    """Other global loads there."""
    shuffles: int
    """Exchanges between threads there: shuffles, shared memory and barriers."""
    instructions: int
    """Instructions there, which is for `elements` elements."""
    special: int
    """Special-function instructions there: exponentials, logarithms, reciprocals and roots."""
    multiply_adds: int
    """Additions, multiplications and both at once there, in float32."""
    elements: int
    """Elements, or pairs of them, that a thread takes through the hot part."""


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
        options.pop("maxnreg", None)
        options["num_warps"] = max(1, options["num_warps"] // 2)  # as the launchers do there: the same threads
    else:
        target = GPUTarget("cuda", int(arch[3:]), 32)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options)


def inspect_cuda(binary: bytes, loops: int = 1) -> dict[str, Any]:
    """Registers, local memory and instructions of a cubin, by the tools that Triton brings."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", file.name)
        assembly = _output(tools / "nvdisasm", "-c", file.name)
    lines = re.findall(r"^\s*(?:(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(.*?);)", assembly, re.MULTILINE)
    stack, local = (int(n) for n in re.search(r"STACK:(\d+).*?LOCAL:(\d+)", usage).groups())
    hot = _hot_part(lines, branch=r"\bBRA.*?`\((\.L_x_\d+)\)", marks=("MUFU.EX2", "MUFU.RSQ"), count=loops)
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "local_bytes": stack + local,
        "wide_loads": sum(".128" in op for op in hot if "LDG" in op),
        "narrow_loads": sum(".128" not in op for op in hot if "LDG" in op),
        "shuffles": sum(bool(re.search(r"\b(SHFL|LDS|STS|BAR|REDUX)\b", op)) for op in hot),
        "instructions": len(hot),
        "special": sum("MUFU" in op for op in hot),
        "multiply_adds": sum(bool(re.search(r"\bF(ADD|MUL|FMA)\b", op)) for op in hot),
    }


def inspect_amd(assembly: str, loops: int = 1) -> dict[str, Any]:
    """The same of AMD assembly; registers are the vector registers. Scalar ones may spill into those."""

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", assembly)[1])

    lines = re.findall(r"^(?:(\.?LBB\w+):|\s+([a-z][a-z0-9_]+.*?)$)", assembly, re.MULTILINE)
    hot = _hot_part(lines, branch=r"\bs_c?branch\S*\s+(\.?LBB\w+)", marks=("v_exp_f32", "v_rsq_f32"), count=loops)
    return {
        "registers": field("vgpr_count"),
        "local_bytes": field("private_segment_fixed_size"),
        "wide_loads": sum("load_dwordx4" in op for op in hot),
        "narrow_loads": sum(bool(re.search(r"(global|buffer)_load_(?!dwordx4)", op)) for op in hot),
        "shuffles": sum(bool(re.search(r"\b(ds_|s_barrier)", op)) for op in hot),
        "instructions": len(hot),
        "special": sum(bool(re.search(r"\bv_(exp|log|rcp|rsq|sqrt)_f32", op)) for op in hot),
        "multiply_adds": sum(bool(re.search(r"\bv_(pk_)?(add|sub|mul|fma|fmac|fmaak|fmamk)_f32", op)) for op in hot),
    }


def _hot_part(lines: list[tuple[str, str]], branch: str, marks: tuple[str, str], count: int) -> list[str]:
    labels: dict[str, int] = {}
    operations: list[str] = []
    loops: list[list[str]] = []
    for label, operation in lines:
        if label:
            labels[label] = len(operations)
            continue
        operations.append(operation)
        target = re.search(branch, operation)
        if target and target[1] in labels:
            loops.append(operations[labels[target[1]] :])
    heats = ([sum(mark in op for op in loop) for loop in loops] for mark in marks)
    heat = next((heat for heat in heats if any(heat)), None)
    if heat is None:
        return operations
    # Of nested loops the inner one counts.
    hottest = sorted(zip(heat, loops, strict=True), key=lambda pair: (-pair[0], len(pair[1])))
    return [operation for _, loop in hottest[:count] for operation in loop]


def _output(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def inspect(case: str, arch: str, launch: Launch) -> Report:
    """Compile and read one launch."""
    compiled = compile_launch(launch, arch)
    loops = 2 if launch.arguments.get("READS") == 3 else 1
    if arch.startswith("gfx"):
        found = inspect_amd(compiled.asm["amdgcn"], loops)
    else:
        found = inspect_cuda(compiled.asm["cubin"], loops)
    elements = launch.arguments.get("DEPTH", 0) * launch.arguments.get("VEC", 0)
    return Report(case=case, kernel=launch.kernel.__name__, arch=arch, elements=elements, **found)


def reports(module: str, wanted: list[str]) -> list[Report]:
    """Reports of the cases `wanted` ("CASE:ARCH") of the dict CASES in `module`, made in a process of its own."""
    import os

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
        for launch in record(cases[case]):
            print(json.dumps(asdict(inspect(case, arch, launch))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
