"""What a call of an op would launch and move: `fluxcore.explain` gives a `Schedule`.

Each op counts its own kernels in a module beside it (`fluxcore/ops/_*_schedule.py`): a function of an `OpCall` and a
`Machine` that returns `Launch`es.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from fluxcore.backends import Backend

if TYPE_CHECKING:
    from rich.console import Group

Pass = Literal["forward", "backward"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the call would run."""

    device: torch.device
    backend: Backend
    threads: int = 1
    """Of the CPU."""
    isa: str = ""
    """Instruction set of the C++ kernels; empty for others."""
    programs: int = 1
    """Triton programs that fill the GPU."""


class OpCall(NamedTuple):
    """One call of a `torch.library` op, on tensors that have shapes and no memory."""

    inputs: Mapping[str, Any]
    """Arguments by their names in the op's schema."""
    results: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel, or one pass of the CPU's threads over the rows."""

    kernel: str
    regime: str = ""
    """"rows", "loop" or "split" on a GPU (`fluxcore.kernels.rows`), "fused" where no logits are stored, "threads" on a
    CPU; empty for small kernels."""
    work: str = ""
    """Grid and rows of a program, or threads and rows that one takes at a time."""
    bytes_read: int
    """From memory, each byte once."""
    bytes_written: int
    bytes_reread: int = 0
    """Read again soon after the first time, from a cache where rows fit in it."""
    exps: int = 0
    """Exponentials, and as many logarithms or tanh where an op takes those an element."""
    flop: int = 0
    """Multiplications and additions of matrix products."""
    product_rate: float = 1.0
    """Share of the rate of large products that these reach."""
    launches: int = 1
    """How often it is launched; all else is counted over all of them."""
    workspace_bytes: int = 0
    """Memory that the launch takes and gives back."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The kernels of a call in the order of their launch, what they move, and the memory they take.

    Print it for a table.
    """

    op: str
    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    machine: Machine
    forward: tuple[Launch, ...]
    backward: tuple[Launch, ...]
    """Empty for a call without a gradient."""
    peak_extra_bytes: int
    """Most memory at once beyond the arguments: results, what the backward pass needs, gradient and workspace."""
    bandwidth_gb_per_s: float | None = None
    """1e9 bytes a second, read plus written; None: no times."""
    tflop_per_s: float | None = None
    """1e12 operations of matrix products a second."""
    notes: tuple[str, ...] = field(default=())

    @property
    def regime(self) -> str:
        """That of the kernel over the rows of logits."""
        return next((launch.regime for launch in self.forward if launch.regime), "")

    @property
    def workspace_bytes(self) -> int:
        """Of the launch that takes most."""
        return max((launch.workspace_bytes for launch in self.launches), default=0)

    @property
    def launches(self) -> tuple[Launch, ...]:
        """Forward, then backward."""
        return self.forward + self.backward

    @property
    def forward_ms(self) -> float | None:
        """Bytes over bandwidth, and operations of matrix products over their rate; None without a bandwidth.

        A call without products takes at least this long, and more where arithmetic or launches hold it up. Of products
        it is the cost model by which the linear ops choose their chunks.
        """
        return self.expected_ms(self.forward)

    @property
    def backward_ms(self) -> float | None:
        """As `forward_ms`; 0 without a backward pass."""
        return self.expected_ms(self.backward)

    def expected_ms(self, launches: Iterable[Launch]) -> float | None:
        """Of these launches, as `forward_ms`."""
        if self.bandwidth_gb_per_s is None:
            return None
        launches = tuple(launches)
        ms = sum(moved(launch) for launch in launches) / self.bandwidth_gb_per_s / 1e6
        flop = sum(launch.flop / launch.product_rate for launch in launches)
        return ms + flop / self.tflop_per_s / 1e9 if flop and self.tflop_per_s else ms

    def __rich__(self) -> "Group":
        from fluxcore.schedule_table import as_group  # rich: the ops are to be imported without it

        return as_group(self)

    def __str__(self) -> str:
        from fluxcore.schedule_table import as_text

        return as_text(self)


def moved(launch: Launch) -> int:
    """Bytes read and written."""
    return launch.bytes_read + launch.bytes_written


def nbytes(*values: Any) -> int:
    """Bytes of the tensors among `values`, each byte of an expanded one once."""
    return sum(_own_elements(value) * value.element_size() for value in values if isinstance(value, Tensor))


def _own_elements(tensor: Tensor) -> int:
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    count = 1
    for size in sizes:
        count *= size
    return count if tensor.numel() else 0
