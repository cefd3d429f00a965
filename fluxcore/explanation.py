"""`explain`: what a call of an op would launch, move and take, without running it.

The public function is called on tensors that have shapes and no memory, and differentiated, under a recorder of the
`torch.library` ops that this dispatches. So arguments are checked as in the call itself, and the passes are those that
it would take. What each of our ops launches is counted by the function in `_COUNTERS`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fluxcore import _core
from fluxcore.backends import Backend, resolve_backend
from fluxcore.ops import _cross_entropy_backends, _kl_div_backends
from fluxcore.ops._cross_entropy_schedule import cross_entropy_bwd, cross_entropy_fwd, scale_
from fluxcore.ops._dispatch import backend_of
from fluxcore.ops._kl_div_schedule import kl_div_bwd, kl_div_fwd
from fluxcore.ops._softmax_stats_schedule import softmax_stats_bwd, softmax_stats_fwd
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.ops.kl_div import kl_div
from fluxcore.ops.softmax_helpers import entropy_from_logits, logsumexp, selective_log_softmax
from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.schedule import Launch, Machine, OpCall, Schedule, nbytes
from fluxcore.tracing import Memory, MemoryTrace

Shape = tuple[int, ...]


class _Argument(NamedTuple):
    """A tensor argument of a public function."""

    default: Callable[[Shape], Shape] | None = None
    """Its shape if none is given, from that of the first argument; None: then it is left out."""
    dtype: torch.dtype | None = None
    """None: that of the call."""
    may_be_probabilities: bool = False
    """Of the call's dtype if it has the shape of the first argument."""


@dataclass(frozen=True)
class _Op:
    """A public function; its first argument is the one that is differentiated and must have a shape."""

    function: Callable[..., Any]
    arguments: Mapping[str, _Argument]
    backends: Sequence[Backend] = ("triton", "cpp")


def _rows(shape: Shape) -> Shape:
    return shape[:-1]


def _alike(shape: Shape) -> Shape:
    return shape


_FIRST = _Argument()
_CLASSES = _Argument(_rows, torch.int64)
_WEIGHTS = _Argument(None, torch.float32)
_OPS = {
    "softmax_stats": _Op(softmax_stats, {"logits": _FIRST, "target": _CLASSES}),
    "entropy_from_logits": _Op(entropy_from_logits, {"logits": _FIRST}),
    "selective_log_softmax": _Op(selective_log_softmax, {"logits": _FIRST, "index": _CLASSES}),
    "logsumexp": _Op(logsumexp, {"logits": _FIRST}),
    "cross_entropy": _Op(
        cross_entropy,
        {
            "logits": _FIRST,
            "target": _Argument(_rows, torch.int64, may_be_probabilities=True),
            "weight": _WEIGHTS,
            "token_weight": _WEIGHTS,
            "penalty_mask": _WEIGHTS,
        },
        _cross_entropy_backends.BACKENDS,
    ),
    "kl_div": _Op(
        kl_div,
        {"logits": _FIRST, "ref_logits": _Argument(_alike), "token_weight": _WEIGHTS},
        _kl_div_backends.BACKENDS,
    ),
}

_COUNTERS: dict[str, Callable[[OpCall, Machine], list[Launch]]] = {
    "fluxcore::softmax_stats_fwd": softmax_stats_fwd,
    "fluxcore::softmax_stats_bwd": softmax_stats_bwd,
    "fluxcore::cross_entropy_fwd": cross_entropy_fwd,
    "fluxcore::cross_entropy_bwd": cross_entropy_bwd,
    "fluxcore::scale_": scale_,
    "fluxcore::kl_div_fwd": kl_div_fwd,
    "fluxcore::kl_div_bwd": kl_div_bwd,
}
"""What each `torch.library` op launches."""


def explain(
    op: str,
    shapes: Mapping[str, Shape],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    requires_grad: bool = True,
    bandwidth_gb_per_s: float | None = None,
    measure: bool = False,
    multiprocessors: int | None = None,
    **options: Any,
) -> Schedule:
    """The schedule that a call would take on this machine: kernels in order, bytes, memory and expected time.

    Nothing of the op runs, and no memory of the size of the arguments is taken. The backend is the one that a call
    inside `with fluxcore.backend(...)` at this place would take; threads are `torch.get_num_threads()`. Counted is an
    eager call on contiguous tensors, and a backward pass whose upstream gradient is 1.

    Args:
        op: Name of a function of this package: "softmax_stats", "entropy_from_logits", "selective_log_softmax",
            "logsumexp", "cross_entropy" or "kl_div".
        shapes: Shapes of tensor arguments by name. `logits` is needed; targets, indices and `ref_logits` follow from
            it if they are missing, and other tensors are then left out of the call.
        dtype: Of the logits.
        device: "cpu", "cuda" or one of several.
        requires_grad: Whether the logits do; False leaves out the backward pass, and what a forward pass keeps for it.
        bandwidth_gb_per_s: Memory bandwidth, 1e9 bytes a second read plus written, from which times follow.
        measure: Measure that bandwidth now, by copies on `device` that take up to a second (and 512 MB).
        multiprocessors: Of the GPU, if none is here to be asked: an H100 SXM or an H200 has 132, an A100 108.
        **options: The op's other arguments, as in the call.

    Returns:
        A `Schedule`; print it for a table. Times are None without a bandwidth.

    Raises:
        ValueError: an op, shape name or backend that has no schedule, no `logits`, or no GPU to ask; and whatever the
            call itself refuses.
        TypeError: as the call itself.
    """
    if op not in _OPS:
        raise ValueError(f"`op` must be one of {', '.join(_OPS)}, got {op!r}")
    device = torch.device(device)
    rate = _bandwidth(device, bandwidth_gb_per_s, measure)
    machine = _machine(op, device, multiprocessors)
    forward, backward, peak = _record(_OPS[op], _checked_shapes(op, shapes), dtype, requires_grad, options, machine)
    return Schedule(
        op=op,
        shapes={name: tuple(shape) for name, shape in shapes.items()},
        dtype=dtype,
        machine=machine,
        forward=tuple(forward),
        backward=tuple(backward),
        peak_extra_bytes=peak,
        bandwidth_gb_per_s=rate,
    )


def _checked_shapes(op: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of all tensors of the call, the first argument's first."""
    arguments = _OPS[op].arguments
    unknown = [name for name in shapes if name not in arguments]
    if unknown:
        raise ValueError(f"`shapes` must be of {', '.join(arguments)} for `{op}`, got {unknown[0]!r}")
    first = next(iter(arguments))
    if first not in shapes:
        raise ValueError(
            f"`shapes` must have `{first}` for `{op}`, got {', '.join(shapes) or 'none'}"
            f'\n\nWrite shapes={{"{first}": (4096, 50257)}} for 4096 rows of 50257 classes.'
        )
    found = {}
    for name, argument in arguments.items():
        if name in shapes:
            found[name] = tuple(shapes[name])
        elif argument.default is not None:
            found[name] = argument.default(tuple(shapes[first]))
    return found


def _machine(op: str, device: torch.device, multiprocessors: int | None) -> Machine:
    chosen = resolve_backend(device)
    if chosen == "reference":
        raise ValueError(
            f"backend `reference` has no schedule: plain PyTorch launches what its expressions need, on `{device}`"
            '\n\nExplain another, with device="cpu" or in `with fluxcore.backend(...)`.'
        )
    backend_of(op, _OPS[op].backends, device)
    if chosen == "cpp":
        return Machine(device=device, backend=chosen, threads=torch.get_num_threads(), isa=_core.cpu_isa())
    from fluxcore.kernels.rows import PROGRAMS_A_MULTIPROCESSOR, programs_to_fill

    if multiprocessors is not None:
        if multiprocessors < 1:
            raise ValueError(f"`multiprocessors` must be >= 1, got {multiprocessors}")
        return Machine(device=device, backend=chosen, programs=PROGRAMS_A_MULTIPROCESSOR * multiprocessors)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"`device` must be of this machine, got {device}, and torch sees no GPU"
            "\n\nGive `multiprocessors` to explain a call on another: 132 for an H100 SXM."
        )
    return Machine(device=device, backend=chosen, programs=programs_to_fill(device))


def _record(
    op: _Op,
    shapes: Mapping[str, Shape],
    dtype: torch.dtype,
    requires_grad: bool,
    options: Mapping[str, Any],
    machine: Machine,
) -> tuple[list[Launch], list[Launch], int]:
    """Launches forward and backward, and the peak of memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # late, because it loads a second's worth of modules

    with FakeTensorMode():
        tensors: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            argument = op.arguments[name]
            alike = argument.may_be_probabilities and tensors and shape == next(iter(tensors.values())).shape
            tensors[name] = torch.empty(shape, dtype=dtype if alike or argument.dtype is None else argument.dtype)
        leaf = next(iter(tensors.values())).requires_grad_(requires_grad)
        memory = Memory()
        with _Recorder(machine, memory) as forward:
            result = op.function(**tensors, **options)
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor) and value.requires_grad]
        if not outputs:
            return forward.launches, [], memory.peak
        upstream = [torch.empty_like(output) for output in outputs]
        with _Recorder(machine, memory) as backward:
            torch.autograd.grad(outputs, leaf, upstream)
    return forward.launches, backward.launches, memory.peak


class _Recorder(MemoryTrace):
    """Counts what each op dispatched inside would launch."""

    def __init__(self, machine: Machine, memory: Memory) -> None:
        super().__init__(memory)
        self.launches: list[Launch] = []
        self._machine = machine

    def observe(self, func: Any, args: Any, kwargs: Any, results: tuple[Tensor, ...]) -> int:
        launches = self._count(func, args, kwargs, results)
        self.launches += launches
        return max((launch.workspace_bytes for launch in launches), default=0)

    def _count(self, func: Any, args: Any, kwargs: Any, results: tuple[Tensor, ...]) -> list[Launch]:
        name = func._schema.name
        if name in _COUNTERS:
            inputs = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
            return _COUNTERS[name](OpCall(inputs | dict(kwargs), results), self._machine)
        read, written = nbytes(*tree_leaves((args, kwargs))), nbytes(*results)
        if written == 0 or name.startswith("aten::empty"):
            return []
        return [Launch(kernel=name, bytes_read=read, bytes_written=written)]


def _bandwidth(device: torch.device, given: float | None, measure: bool) -> float | None:
    if given is not None and measure:
        raise ValueError(f"`measure` is of no use with `bandwidth_gb_per_s`, got {given}")
    if given is not None and not given > 0:
        raise ValueError(f"`bandwidth_gb_per_s` must be > 0, got {given}")
    return _copy_rate(device) if measure else given


def _copy_rate(device: torch.device) -> float:
    """Best of some copies, in 1e9 bytes read plus written a second."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`measure` needs the device itself, got {device}, and torch sees no GPU")
    source = torch.ones(256 << 20, dtype=torch.uint8, device=device)
    out = torch.zeros_like(source)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        out.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() / best / 1e9
