"""Read machine code: registers, local memory, and the instructions of the loops that a kernel spends its time in.

Loops are natural loops of the control flow graph: a branch to a block that dominates it, and what lies between. A
branch backwards is no loop by itself, because compilers put rare blocks last, and those jump back into the middle. What
loops inside a loop have is theirs alone.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import triton


@dataclass(frozen=True)
class Dialect:
    """Regular expressions for the instructions of one vendor."""

    line: str
    """A label, or an instruction."""
    jump: str
    """A branch, to the label that it names."""
    always: str
    """One that falls through to nothing: a branch without a condition, or an end."""
    work: str
    """Instructions of which an element of a row takes some: exponentials, roots, multiply-adds in float64."""
    load: str
    wide_load: str
    store: str
    exchange: str
    """Shuffles, shared memory and barriers."""
    special: str
    """Exponentials, logarithms, reciprocals and roots."""
    multiply_add: str
    """Additions, multiplications and both at once in float32."""
    double: str
    """Arithmetic and comparisons in float64."""


CUDA = Dialect(
    line=r"^\s*(?:(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(.*?);)",
    jump=r"\b(?:BRA|CALL)\b.*?`\((\.L_x_\d+)\)",
    always=r"^(?:BRA `|BRX|EXIT|RET)",
    work=r"\bMUFU\.(?:EX2|RSQ)\b|\bDFMA\b",
    load=r"\bLDG\b",
    wide_load=r"\bLDG\b.*\.128\b",
    store=r"\bSTG\b",
    exchange=r"\b(?:SHFL|LDS|STS|BAR|REDUX)\b",
    special=r"\bMUFU\b",
    multiply_add=r"\bF(?:ADD|MUL|FMA)\b",
    double=r"\bD(?:ADD|MUL|FMA|SETP|MNMX)\b",
)
AMD = Dialect(
    line=r"^(?:(\.?LBB\w+):|\s+([a-z][a-z0-9_]+.*?)$)",
    jump=r"\bs_c?branch\S*\s+(\.?LBB\w+)",
    always=r"^(?:s_branch|s_endpgm|s_setpc)",
    work=r"\bv_(?:exp|rsq)_f32|\bv_fmac?_f64",
    load=r"\b(?:global|buffer)_load_",
    wide_load=r"\b(?:global|buffer)_load_dwordx4",
    store=r"\b(?:global|buffer)_store_",
    exchange=r"\b(?:ds_|s_barrier)",
    special=r"\bv_(?:exp|log|rcp|rsq|sqrt)_f32",
    multiply_add=r"\bv_(?:pk_)?(?:add|sub|mul|fma|fmac|fmaak|fmamk)_f32",
    double=r"\bv_(?:add|mul|fma|fmac|max|min|cmp_\w+|rcp|div_scale|div_fmas|div_fixup|ldexp|rndne)_f64",
)


@dataclass
class Block:
    """Instructions between two jumps, and the blocks that may follow."""

    operations: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)


@dataclass
class Code:
    """The machine code of a kernel."""

    dialect: Dialect
    registers: int
    """Of AMD the vector registers; scalar ones may spill into those."""
    local_bytes: int
    """Local memory of a thread: spills and arrays."""
    blocks: list[Block]

    def passes(self) -> list[list[str]]:
        """Instructions of each loop that does `work`: of several alike the shortest with nearly the most of it.

        Loops are alike if both store or neither does, and if both have loops inside or neither has: so a scan of the
        row, with and without masks, counts once, and its gradient and the search for the top k apart. Without any such
        loop, all instructions are one pass.
        """
        groups: dict[tuple[bool, bool], list[tuple[int, list[str]]]] = {}
        for operations, nests in _loops(self.blocks):
            work = count(self.dialect.work, operations)
            if work:
                alike = (count(self.dialect.store, operations) > 0, nests)
                groups.setdefault(alike, []).append((work, operations))
        best = []
        for _, group in sorted(groups.items()):
            most = max(work for work, _ in group)
            best.append(min((operations for work, operations in group if work > 0.8 * most), key=len))
        return best or [[operation for block in self.blocks for operation in block.operations]]

    def streams(self) -> list[list[str]]:
        """Instructions of each innermost loop that loads 16 bytes at a time; without any, all instructions."""
        found = [
            operations
            for operations, nests in _loops(self.blocks)
            if not nests and count(self.dialect.wide_load, operations)
        ]
        return found or [[operation for block in self.blocks for operation in block.operations]]

    def two_hottest(self) -> list[list[str]]:
        """Instructions of the two loops that do most work, for a kernel that reads its rows twice."""
        loops = (operations for operations, _ in _loops(self.blocks))
        return sorted(loops, key=lambda operations: -count(self.dialect.work, operations))[:2]


def count(pattern: str, operations: list[str]) -> int:
    """Operations that match."""
    return sum(bool(re.search(pattern, operation)) for operation in operations)


def read_cuda(binary: bytes) -> Code:
    """Of a cubin, by the tools that Triton brings."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", file.name)
        assembly = _output(tools / "nvdisasm", "-c", file.name)
    stack, local = (int(n) for n in re.search(r"STACK:(\d+).*?LOCAL:(\d+)", usage).groups())
    return Code(CUDA, int(re.search(r"REG:(\d+)", usage)[1]), stack + local, _blocks(CUDA, assembly))


def read_amd(assembly: str) -> Code:
    """Of AMD assembly."""
    registers, local = (
        int(re.search(rf"\.{name}:\s+(\d+)", assembly)[1]) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    return Code(AMD, registers, local, _blocks(AMD, assembly))


def _output(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def _blocks(dialect: Dialect, assembly: str) -> list[Block]:
    blocks, labels = [Block()], {}
    jumps: list[tuple[int, str]] = []
    for label, operation in re.findall(dialect.line, assembly, re.MULTILINE):
        if label:
            if blocks[-1].operations:
                blocks.append(Block())
            labels[label] = len(blocks) - 1
            continue
        blocks[-1].operations.append(operation)
        jump = re.search(dialect.jump, operation)
        if jump or re.search(dialect.always, operation):
            if jump:
                jumps.append((len(blocks) - 1, jump[1]))
            blocks.append(Block())
    for i, block in enumerate(blocks[:-1]):
        if not block.operations or not re.search(dialect.always, block.operations[-1]):
            block.next.append(i + 1)
    for i, label in jumps:
        blocks[i].next.append(labels[label])
    return blocks


def _loops(blocks: list[Block]) -> Iterator[tuple[list[str], bool]]:
    """Instructions of each loop without those of loops inside it, and whether there are such."""
    before = _before(blocks)
    dominators = _dominators(before)
    bodies: dict[int, set[int]] = {}
    for i in before:
        for header in set(blocks[i].next) & dominators[i]:
            body = bodies.setdefault(header, {header})
            frontier = [i]
            while frontier:
                block = frontier.pop()
                if block not in body:
                    body.add(block)
                    frontier += before[block]
    for body in bodies.values():
        inner = [other for other in bodies.values() if other < body]
        own = body.difference(*inner)
        yield [operation for i in sorted(own) for operation in blocks[i].operations], bool(inner)


def _before(blocks: list[Block]) -> dict[int, set[int]]:
    """Which blocks lead to each block that can be reached."""
    before: dict[int, set[int]] = {0: set()}
    frontier = [0]
    while frontier:
        i = frontier.pop()
        for j in blocks[i].next:
            if j not in before:
                frontier.append(j)
            before.setdefault(j, set()).add(i)
    return before


def _dominators(before: dict[int, set[int]]) -> dict[int, set[int]]:
    """Of each block, those that every way to it from block 0 goes through."""
    dominators = {i: set(before) if i else {0} for i in sorted(before)}
    changed = True
    while changed:
        changed = False
        for i in dominators:
            if i:
                new = set.intersection(*(dominators[j] for j in before[i])) | {i}
                changed |= new != dominators[i]
                dominators[i] = new
    return dominators
