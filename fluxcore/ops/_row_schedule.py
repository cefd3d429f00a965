"""How the kernels over rows of logits share out their rows, for the schedules of the ops beside this."""

from typing import NamedTuple

from torch import Tensor

from fluxcore import _core
from fluxcore.schedule import Machine


class Walk(NamedTuple):
    """Who takes which rows."""

    regime: str
    work: str
    splits: int
    """Programs a row."""


def has_edges(logits: Tensor) -> bool:
    """Whether a row of `logits` [N, V] with an aligned address begins or ends inside a 16-byte vector."""
    vec = 16 // logits.element_size()
    return bool(logits.stride(0) % vec or logits.shape[1] % vec)


def row_walk(
    logits: Tensor, machine: Machine, *, max_splits: int, threads: int | None = None, per_lane: int | None = None
) -> Walk:
    """The walk over `logits` [N, V] with an aligned address; asks the code that the kernels themselves ask.

    `threads` are those of a GPU program that has a row to itself, `per_lane` the elements of a short row that a thread
    takes, if they are not the usual ones.
    """
    N, V = logits.shape
    if machine.backend == "cpp":
        rows = _core.softmax_row_grain(N, V, machine.threads)
        return Walk("threads", f"{machine.threads} threads, {rows} rows at a time", 1)
    from fluxcore.kernels.rows import LANE_ELEMENTS, THREADS, plan_rows

    lanes = (threads or THREADS, per_lane or LANE_ELEMENTS)
    plan = plan_rows(N, V, logits.element_size(), has_edges(logits), machine.programs, max_splits, *lanes)
    grid = " x ".join(map(str, plan.grid))
    each = f"{plan.rows} rows a program" if plan.splits == 1 else f"{plan.splits} programs a row"
    return Walk(plan.regime, f"grid {grid}, {each}", plan.splits)
