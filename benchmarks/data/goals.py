"""What our loader is to reach, and whether rows say that it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Row]
"""Of one measure, by contender."""

_WITH_CRC = ("fluxcore", "fluxcore, tokens alone")
_WITHOUT_CRC = ("fluxcore, no CRC", "fluxcore, no CRC, tokens alone")
_MEMMAP, _FANCY = "numpy memmap + DataLoader", "numpy fancy index"


class UnknownError(Exception):
    """The rows do not tell; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One target."""

    measure: str
    contenders: tuple[str, ...]
    """Ours that it is for."""
    text: str
    reached: Callable[[Row, Rows], tuple[bool, str]]
    """Of our row and all of its measure: whether, and the figure. Raises UnknownError."""


def verdicts(row: Row, rows: Rows) -> tuple[str, str]:
    """The targets of a row, and for each `met`, `missed` or `not judged`; empty without a target."""
    goals = [goal for goal in GOALS if goal.measure == row["measure"] and row["contender"] in goal.contenders]
    said = [_verdict(goal, row, rows) for goal in goals]
    return "; ".join(goal.text for goal in goals), "; ".join(said)


def _verdict(goal: Goal, row: Row, rows: Rows) -> str:
    try:
        reached, figure = goal.reached(row, rows)
    except UnknownError as error:
        return f"not judged: {error}"
    return f"{'met' if reached else '**missed**'}, {figure}"


def _field(row: Row, name: str) -> Any:
    if name not in row:
        raise UnknownError(f"the row has no `{name}`")  # as rows of earlier versions
    return row[name]


def _times(rival: str, factor: float) -> Callable[[Row, Rows], tuple[bool, str]]:
    """At least so many times the rival's rate."""

    def reached(row: Row, rows: Rows) -> tuple[bool, str]:
        if rival not in rows or rows[rival]["status"] != "ok":
            raise UnknownError(f"no figure of {rival}")
        ratio = row["value"] / rows[rival]["value"]
        return ratio >= factor, f"{ratio:.3g}x"

    return reached


def _at_most(limit: float, unit: str, *, of: str = "value") -> Callable[[Row, Rows], tuple[bool, str]]:
    def reached(row: Row, rows: Rows) -> tuple[bool, str]:
        figure = _field(row, of)
        return figure <= limit, f"{figure:.3g} {unit}"

    return reached


def _at_least(limit: float, unit: str) -> Callable[[Row, Rows], tuple[bool, str]]:
    def reached(row: Row, rows: Rows) -> tuple[bool, str]:
        return row["value"] >= limit, f"{row['value']:.3g}{unit}"

    return reached


def _below(
    limit: float, unit: str, *, of: str = "value", over: str, count: int
) -> Callable[[Row, Rows], tuple[bool, str]]:
    """Less than the limit, in a row whose field `over` says that it was measured over so many."""

    def reached(row: Row, rows: Rows) -> tuple[bool, str]:
        seen, figure = _field(row, over), _field(row, of)
        if seen < count:
            raise UnknownError(f"over {seen:,} {over.replace('_', ' ')}, not {count:,}")
        return figure < limit, f"{figure:.3g} {unit}"

    return reached


def _resumes(row: Row, rows: Rows) -> tuple[bool, str]:
    right, of = _field(row, "right"), _field(row, "of")
    return row["value"] < 5 and right == of, f"{row['value']:.3g} ms, {right} of {of} right"


_WARM = {"measure": "warm", "contenders": _WITH_CRC}
_START = {"over": "sparse_chunks", "count": 50_000_000}
GOALS = (
    Goal(**_WARM, text=">= 5x memmap + DataLoader", reached=_times(_MEMMAP, 5)),
    Goal(**_WARM, text=">= 2x fancy index", reached=_times(_FANCY, 2)),
    Goal(**_WARM, text="<= 1.1 core-s a G token", reached=_at_most(1.1, "core-s", of="core_s")),
    Goal(measure="warm", contenders=_WITHOUT_CRC, text=">= 7x memmap + DataLoader", reached=_times(_MEMMAP, 7)),
    Goal(measure="warm", contenders=_WITHOUT_CRC, text=">= 2x fancy index", reached=_times(_FANCY, 2)),
    Goal(measure="cold-large", contenders=_WITH_CRC, text=">= 20x memmap + DataLoader", reached=_times(_MEMMAP, 20)),
    Goal(measure="start", contenders=_WITH_CRC, text="< 50 ms", reached=_below(50, "ms", **_START)),
    Goal(measure="start", contenders=_WITH_CRC, text="< 10 MB", reached=_below(10, "MB", of="mb", **_START)),
    Goal(measure="resume", contenders=_WITH_CRC, text="< 5 ms, exact", reached=_resumes),
    Goal(measure="elastic", contenders=_WITH_CRC, text="exact", reached=_at_least(100, "%")),
    Goal(measure="item", contenders=_WITH_CRC, text="<= 3 us", reached=_at_most(3, "us")),
    Goal(measure="flips", contenders=_WITH_CRC, text="100%", reached=_at_least(100, "%")),
    Goal(measure="spread", contenders=_WITH_CRC, text=">= 0.97", reached=_at_least(0.97, "")),
    Goal(
        measure="memory",
        contenders=("fluxcore",),
        text="< 16 MB over 1,000,000 batches",
        reached=_below(16, "MB", over="batches", count=1_000_000),
    ),
)
