"""How a contender is checked and timed. A benchmark file lists `Case`s; `run_case` turns each into rows.

A case checks the answers first: ours must be right, a rival that is wrong gets no time. It then times every contender
next to a physical floor, measured in the same run: `x.sum()` for an op that reads its input once on a CPU, a copy for
all others. Rates count the bytes that the op must move, so that a contender which moves more is slower, not busier.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from benchmarks.environment import environment, free_memory_bytes, peak_memory_mb
from fluxcore.tracing import peak_bytes

Answer = Mapping[str, Tensor]
OURS = "fluxcore"
TURNS = 5


class Floor(Enum):
    """What the machine cannot do faster."""

    SUM = "sum"
    """The rate of `x.sum()`: bytes read."""
    COPY = "copy"
    """The rate of a copy: bytes read plus bytes written."""


class WrongAnswerError(AssertionError):
    """A contender's answer is further from the truth than the case allows."""


class NotInstalledError(Exception):
    """A rival's package is missing; raised by the contender's `prepare`."""


class CannotRunError(Exception):
    """A rival does not run on this device, or not this case; raised by the contender's `prepare`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op at one shape; contenders get the inputs and return named tensors."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: Callable[[torch.device], tuple[Tensor, ...]]
    """Makes the inputs, rows first; the first one feeds the floor."""
    contenders: Mapping[str, Callable[[], Callable[..., Answer]]]
    """Each prepares a callable, or raises NotInstalledError or CannotRunError. Ours is named `fluxcore`."""
    truth: Callable[..., Answer]
    """Same arguments; the answer in float64."""
    tolerance: float
    """Greatest error of any answer, relative to the largest |truth| of its name."""
    bytes_moved: int
    """Bytes that the op must read and write."""
    flop: int | None = None
    floor: Floor = Floor.COPY
    check_rows: int = 32
    """Rows on which the answers are checked."""
    memory_like: Mapping[str, Callable[..., Answer]] = field(default_factory=dict)
    """For a contender by name, plain PyTorch that takes as much memory: what does not fit is not run."""
    input_bytes: int = 0
    """Of the inputs; a case whose inputs do not fit is left out."""
    expected_ms: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    """For a contender by name, the time that a cost model says, by rates measured beside it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender's result; times in milliseconds, rates in 1e9 bytes (1e12 FLOP) a second."""

    case: str
    contender: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    """`ok`, or why not: `not installed: ...`, `cannot run: ...`, `wrong answer: ...`, `needs ... GB`; only `ok` has
    figures."""
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    gb_per_s: float | None = None
    tflop_per_s: float | None = None
    floor: str | None = None
    floor_gb_per_s: float | None = None
    floor_share: float | None = None
    peak_mb: float | None = None
    """Memory that a call takes beyond its inputs; None where the system does not tell."""
    expected_ms: float | None = None
    """What a cost model says."""
    environment: Mapping[str, str] = field(default_factory=dict)


def run_case(case: Case, device: torch.device, budget_s: float = 1.0) -> list[Row]:
    """Check and time all contenders.

    Raises:
        WrongAnswerError: our own answer is wrong.
    """
    facts = {"case": case.name, "shape": case.shape, "dtype": str(case.dtype).split(".")[-1]}
    facts |= {"environment": environment(device)}
    too_large = does_not_fit(case.input_bytes, device)
    if too_large is not None:
        return [Row(**facts, contender=name, status=f"inputs alone: {too_large}") for name in case.contenders]
    inputs = case.inputs(device)
    floor = floor_call(case, inputs[0])
    return [run_contender(case, name, inputs, floor, facts, budget_s) for name in case.contenders]


def run_contender(
    case: Case,
    name: str,
    inputs: tuple[Tensor, ...],
    floor: Callable[[], object],
    facts: dict[str, object],
    budget_s: float,
) -> Row:
    """Check and time one contender."""
    device = inputs[0].device
    status, call = admit(case, name, inputs)
    facts = facts | {"contender": name, "status": status}
    if call is None:
        return Row(**facts)
    times, floor_times = time_in_turns([(lambda: call(*inputs), budget_s), (floor, budget_s / 4)], device)
    peak_mb = peak_memory_mb(lambda: call(*inputs), device)
    measured = figures(case, times, floor_times, floor_bytes(case, inputs[0]))
    expected_ms = case.expected_ms[name]() if name in case.expected_ms else None
    return Row(**facts, **measured, peak_mb=peak_mb, expected_ms=expected_ms)


def admit(case: Case, name: str, inputs: tuple[Tensor, ...]) -> tuple[str, Callable[..., Answer] | None]:
    """Prepare and check one contender: its status, and the callable if it may run."""
    try:
        call = case.contenders[name]()
    except NotInstalledError as error:
        return f"not installed: {error}", None
    except CannotRunError as error:
        return f"cannot run: {error}", None
    if name in case.memory_like:
        too_large = does_not_fit(peak_bytes(case.memory_like[name], *inputs), inputs[0].device)
        if too_large is not None:
            return too_large, None
    sample = tuple(x[: case.check_rows] for x in inputs)
    error = check_answer(call(*sample), case.truth(*sample), case.tolerance)
    if error is None:
        return "ok", call
    if name == OURS:
        raise WrongAnswerError(f"{case.name}: {error}")
    return f"wrong answer: {error}", None


def does_not_fit(needed_bytes: int, device: torch.device) -> str | None:
    """Why a call that needs so much memory is left out, or None. Some is kept free for what the trace does not see."""
    free_bytes = free_memory_bytes(device)
    if free_bytes is None or needed_bytes <= 0.9 * free_bytes:
        return None
    return f"needs {needed_bytes / 1e9:.1f} GB, of {free_bytes / 1e9:.1f} GB free"


def check_answer(answer: Answer, truth: Answer, tolerance: float) -> str | None:
    """What is wrong with `answer`, or None. A contender may leave out names, but must give at least one."""
    if not answer or not answer.keys() <= truth.keys():
        return f"gives {sorted(answer)}, expected some of {sorted(truth)}"
    for name, value in answer.items():
        exact = truth[name]
        if value.shape != exact.shape:
            return f"{name} has shape {tuple(value.shape)}, expected {tuple(exact.shape)}"
        error = ((value.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300)).item()
        if not error <= tolerance:
            return f"{name} is off by {error:.1e}, allowed {tolerance:.1e}"
    return None


def time_call(call: Callable[[], object], device: torch.device, budget_s: float) -> list[float]:
    """Seconds of single calls, sorted: as many as fit the budget, at least 5 and at most 200, after a warm-up."""
    return time_in_turns([(call, budget_s)], device)[0]


def time_in_turns(calls: Sequence[tuple[Callable[[], object], float]], device: torch.device) -> list[list[float]]:
    """As `time_call` for each call and its budget, in turns: a machine whose speed drifts slows them all alike."""
    timed = _time_cuda if device.type == "cuda" else _time_cpu
    counts = []
    for call, budget_s in calls:
        first = max(timed(call), timed(call), 1e-7)
        counts.append(min(200, max(TURNS, math.ceil(budget_s / first))))
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(TURNS):
        for (call, _), count, found in zip(calls, counts, times, strict=True):
            now = count * (turn + 1) // TURNS - count * turn // TURNS
            found.extend(timed(call) for _ in range(now))
    return [sorted(found) for found in times]


def _time_cpu(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_cuda(call: Callable[[], object]) -> float:
    # Overwriting more than the L2 cache holds makes every call read from memory, as it would inside a model.
    torch.empty(256 << 20, dtype=torch.int8, device="cuda").zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the sorted list lies, by linear interpolation."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def figures(case: Case, times: list[float], floor_times: list[float], floor_moved: int) -> dict[str, object]:
    """Percentiles, rates and share of the floor, from sorted seconds."""
    p20, p50, p80 = (percentile(times, share) for share in (0.2, 0.5, 0.8))
    rate = case.bytes_moved / p50 / 1e9
    floor_rate = floor_moved / percentile(floor_times, 0.5) / 1e9
    return {
        "p20_ms": p20 * 1e3,
        "p50_ms": p50 * 1e3,
        "p80_ms": p80 * 1e3,
        "gb_per_s": rate,
        "tflop_per_s": None if case.flop is None else case.flop / p50 / 1e12,
        "floor": case.floor.value,
        "floor_gb_per_s": floor_rate,
        "floor_share": rate / floor_rate,
    }


def floor_call(case: Case, x: Tensor) -> Callable[[], object]:
    """The call whose rate is the floor, on an input of the case's own size."""
    if case.floor is Floor.SUM:
        return x.sum
    source = x.detach().reshape(-1)
    # A copy moves two bytes a byte: of half the elements if that is what the op moves.
    source = source[: max(1, floor_bytes(case, x) // (2 * x.element_size()))]
    out = torch.empty_like(source)
    return lambda: out.copy_(source)


def floor_bytes(case: Case, x: Tensor) -> int:
    """Bytes that the floor's call moves."""
    size = x.numel() * x.element_size()
    if case.floor is Floor.SUM:
        return size
    elements = min(case.bytes_moved, 2 * size) // (2 * x.element_size())
    return max(1, elements) * 2 * x.element_size()
