"""`explain`: what a call of an op would launch, move and take, without running it.

The public function is called on tensors that have shapes and no memory, and differentiated, under a recorder of the
`torch.library` ops that this dispatches. So arguments are checked as in the call itself, and the passes are those that
it would take. What each of our ops launches is counted by the function in `fluxcore.explained_ops.COUNTERS`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fluxcore import _core
from fluxcore.backends import resolve_backend
from fluxcore.explained_ops import COUNTERS, OPS, Op, Shape
from fluxcore.machine_rates import rates_of
from fluxcore.ops._dispatch import backend_of
from fluxcore.ops._linear_filter import GradientFilter
from fluxcore.ops._linear_schedule import LinearOptions
from fluxcore.schedule import Launch, Machine, OpCall, Schedule, nbytes
from fluxcore.tracing import Memory, MemoryTrace


def explain(
    op: str,
    shapes: Mapping[str, Shape],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    requires_grad: bool | Collection[str] = True,
    bandwidth_gb_per_s: float | None = None,
    tflop_per_s: float | None = None,
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
            "logsumexp", "cross_entropy", "kl_div", "linear_softmax_stats", "linear_cross_entropy" or "linear_kl_div".
        shapes: Shapes of tensor arguments by name. `logits` is needed, or `input` and `linear_weight`; targets, indices
            and the reference's tensors follow from them if they are missing, and others are then left out of the call.
        dtype: Of the logits, or of the hidden states and the head.
        device: "cpu", "cuda" or one of several.
        requires_grad: Whether the logits do, or hidden states and head; or the names of those that do. False leaves out
            the backward pass, and what a forward pass keeps for it.
        bandwidth_gb_per_s: Memory bandwidth, 1e9 bytes a second read plus written, from which times follow.
        tflop_per_s: Rate of matrix products, 1e12 operations a second; None: what the linear ops take it to be for
            that bandwidth when they choose their chunks.
        measure: Measure both rates now, on `device`, in a second or two (and 512 MB).
        multiprocessors: Of the GPU, if none is here to be asked: an H100 SXM or an H200 has 132, an A100 108.
        **options: The op's other arguments, as in the call.

    Returns:
        A `Schedule`; print it for a table. Times are None without a bandwidth.

    Raises:
        ValueError: an op, shape name or backend that has no schedule, a missing shape, a rate out of range, or no GPU
            to ask; and whatever the call itself refuses.
        TypeError: as the call itself.
    """
    if op not in OPS:
        raise ValueError(f"`op` must be one of {', '.join(OPS)}, got {op!r}")
    device = torch.device(device)
    rates = rates_of(device, dtype, bandwidth_gb_per_s, tflop_per_s, measure)
    machine = _machine(op, device, multiprocessors)
    differentiated = _differentiated(op, requires_grad)
    forward, backward, peak = _record(OPS[op], _checked_shapes(op, shapes), dtype, differentiated, options, machine)
    return Schedule(
        op=op,
        shapes={name: tuple(shape) for name, shape in shapes.items()},
        dtype=dtype,
        machine=machine,
        forward=tuple(forward),
        backward=tuple(backward),
        peak_extra_bytes=peak,
        bandwidth_gb_per_s=rates.bandwidth_gb_per_s,
        tflop_per_s=rates.tflop_per_s,
    )


def _checked_shapes(op: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of all tensors of the call, the first argument's first."""
    arguments = OPS[op].arguments
    unknown = [name for name in shapes if name not in arguments]
    if unknown:
        raise ValueError(f"`shapes` must be of {', '.join(arguments)} for `{op}`, got {unknown[0]!r}")
    missing = [name for name, argument in arguments.items() if argument.is_needed and name not in shapes]
    if missing:
        example = "(4096, 50257)} for 4096 rows of 50257 classes"
        if "input" in arguments:
            example = '(4096, 768), "linear_weight": (50257, 768)} for 4096 rows of 768 hidden states'
        raise ValueError(
            f"`shapes` must have `{missing[0]}` for `{op}`, got {', '.join(shapes) or 'none'}"
            f'\n\nWrite shapes={{"{next(iter(arguments))}": {example}.'
        )
    found: dict[str, Shape] = {}
    for name, argument in arguments.items():
        if name in shapes:
            found[name] = tuple(shapes[name])
        elif argument.default is not None:
            found[name] = argument.default(found)
    return found


def _differentiated(op: str, requires_grad: bool | Collection[str]) -> list[str]:
    """Names of the arguments that require grad, if they are in the call."""
    candidates = [name for name, argument in OPS[op].arguments.items() if argument.is_differentiated]
    if isinstance(requires_grad, bool):
        return candidates if requires_grad else []
    for name in requires_grad:
        if name not in candidates:
            raise ValueError(f"`requires_grad` must be among {', '.join(candidates)} for `{op}`, got {name!r}")
    return list(requires_grad)


def _machine(op: str, device: torch.device, multiprocessors: int | None) -> Machine:
    chosen = resolve_backend(device)
    if chosen == "reference":
        raise ValueError(
            f"backend `reference` has no schedule: plain PyTorch launches what its expressions need, on `{device}`"
            '\n\nExplain another, with device="cpu" or in `with fluxcore.backend(...)`.'
        )
    backend_of(op, OPS[op].backends, device)
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
    op: Op,
    shapes: Mapping[str, Shape],
    dtype: torch.dtype,
    differentiated: Collection[str],
    options: Mapping[str, Any],
    machine: Machine,
) -> tuple[list[Launch], list[Launch], int]:
    """Launches forward and backward, and the peak of memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # late, because it loads a second's worth of modules

    with FakeTensorMode():
        tensors: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            argument = op.arguments[name]
            alike = argument.may_be_probabilities and len(shape) == next(iter(tensors.values())).dim()
            tensors[name] = torch.empty(shape, dtype=dtype if alike or argument.dtype is None else argument.dtype)
        leaves = [tensor.requires_grad_() for name, tensor in tensors.items() if name in differentiated]
        memory, options = Memory(), _without_memory(options)
        with _Recorder(machine, memory) as forward:
            result = op.function(**tensors, **options)
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor) and value.requires_grad]
        if not outputs:
            return forward.launches, [], memory.peak
        upstream = [torch.empty_like(output) for output in outputs]
        with _Recorder(machine, memory) as backward:
            torch.autograd.grad(outputs, leaves, upstream)
    return forward.launches, backward.launches, memory.peak


def _without_memory(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same, where a filter's tensor is like those of the call."""
    own = options.get("options")
    if not isinstance(own, LinearOptions) or own.gradient_filter is None:
        return dict(options)
    stand_in = GradientFilter(own.gradient_filter.threshold)
    return dict(options) | {"options": replace(own, gradient_filter=stand_in)}


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
        if name in COUNTERS:
            inputs = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
            return COUNTERS[name](OpCall(inputs | dict(kwargs), results), self._machine)
        read, written = nbytes(*tree_leaves((args, kwargs))), nbytes(*results)
        if written == 0 or name.startswith(("aten::empty", "aten::new_empty")):
            return []
        return [Launch(kernel=name, bytes_read=read, bytes_written=written)]
