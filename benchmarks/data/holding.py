"""How a measure is taken of several contenders: of each by itself, or of all in turns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.data.child import Child, in_child
from benchmarks.data.contender import Contender
from benchmarks.data.work import Contest, Figures, Outcome, Work

TURNS = 9


def each_alone(run: Callable[[Contender, Work], Figures]) -> Contest:
    """Each in a process of its own, with nothing opened before."""

    def hold(contenders: Sequence[Contender], work: Work) -> Iterator[Outcome]:
        for contender in contenders:
            yield contender, *in_child(lambda c=contender: run(c, work))

    return hold


def in_turns(steps: Callable[[Contender, Work], Iterator[Any]], figures: Callable[[Sequence[Any]], Figures]) -> Contest:
    """Each in a process that lives throughout: A, B, C, A, B, C, so that a machine whose speed drifts slows all alike.

    Args:
        steps: gets ready in its first step; each of the `TURNS` steps that follow is a turn.
        figures: of the turns of one contender.
    """

    def hold(contenders: Sequence[Contender], work: Work) -> Iterator[Outcome]:
        turns: dict[Contender, list[Any]] = {contender: [] for contender in contenders}
        failed: dict[Contender, str] = {}
        with ExitStack() as stack:
            children = {c: stack.enter_context(Child(lambda c=c: steps(c, work))) for c in contenders}
            for turn in range(1 + TURNS):
                for contender in contenders:
                    if contender in failed:
                        continue
                    status, found = children[contender].next()
                    if status != "ok":
                        failed[contender] = status
                    elif turn > 0:
                        turns[contender].append(found)
        for contender in contenders:
            if contender in failed:
                yield contender, failed[contender], None
            else:
                yield contender, "ok", figures(turns[contender])

    return hold
