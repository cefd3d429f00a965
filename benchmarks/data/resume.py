"""Going on from a checkpoint, on as many ranks as before and on another number of them."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import corpus
from benchmarks.data.child import Child, answers, in_child, value_of
from benchmarks.data.contender import BATCH, Contender
from benchmarks.data.work import Figures, Work

AFTER = 50
"""Batches after a resume that are looked at."""
WORLDS = (2, 4, 8)
_SEED = 7


def resume(contender: Contender, work: Work) -> Figures:
    """From the state at 95% of an epoch to the next batch; are the batches from there on those of an unbroken run?"""
    contender.open(work.files(contender))
    step = resume_step(work)
    unbroken = list(itertools.islice(contender.batches(_SEED), step, step + AFTER))
    state, times = contender.state(_SEED, step), []
    for _ in range(3):
        begin = time.perf_counter()
        batches = contender.resume(state)
        first = next(batches)
        times.append(time.perf_counter() - begin)
    resumed = itertools.chain([first], batches)
    right = sum(
        torch.equal(one, other) for one, other in zip(unbroken, itertools.islice(resumed, len(unbroken)), strict=False)
    )
    note = f"{right} of {len(unbroken)} batches right"
    return {"value": sorted(times)[1] * 1e3, "note": note, "right": right, "of": len(unbroken)}


def elastic(contender: Contender, work: Work) -> Figures:
    """The same state, taken on one rank, resumed on others: do their shares, put together, hold the same batches?

    The order of the rows in a batch is left open. Every rank is a process, in one group of torch.distributed.
    """
    if contender.package is not None:
        import_module(contender.package)  # once, instead of once a rank
    step = resume_step(work)

    def before() -> tuple[object, NDArray[np.int64]]:
        contender.open(work.files(contender))
        unbroken = itertools.islice(contender.share(_SEED, None, 0, 1), step, step + AFTER)
        expected = np.stack([corpus.numbers(batch.numpy()) for batch in unbroken])
        return contender.state(_SEED, step), expected

    state, expected = value_of(in_child(before))
    work.scratch.mkdir()
    right = {}
    for world in WORLDS:
        shares = _shares(contender, work, state, world, len(expected))
        together = np.concatenate(shares, axis=1)
        right[world] = int((np.sort(together, axis=1) == np.sort(expected, axis=1)).all(axis=1).sum())
    total = len(WORLDS) * len(expected)
    note = ", ".join(f"{count} on {world} ranks" for world, count in right.items()) + f", of {len(expected)} each"
    return {"value": 100 * sum(right.values()) / total, "note": note, "right": sum(right.values()), "of": total}


def resume_step(work: Work) -> int:
    """95% of an epoch, in batches."""
    return int(work.chunks // BATCH * 0.95)


def _shares(contender: Contender, work: Work, state: object, world: int, count: int) -> list[NDArray[np.int64]]:
    """Numbers of the chunks in the next `count` batches, [count, BATCH / world] a rank; -1 where a rank had no more."""
    meeting = work.scratch / f"meeting-{world}"

    def run(rank: int) -> Iterator[NDArray[np.int64]]:
        _join(rank, world, meeting)
        contender.open(work.files(contender))
        found = np.full((count, BATCH // world), -1)
        for row, batch in zip(found, contender.share(_SEED, state, rank, world), strict=False):
            row[:] = corpus.numbers(batch.numpy())
        yield found

    with ExitStack() as stack:
        ranks = [stack.enter_context(Child(lambda r=rank: run(r))) for rank in range(world)]
        given = answers(ranks)
    failed = [answer for answer in given if answer[0] not in ("ok", "left, as another one failed")]
    return [value_of(answer) for answer in failed + given]


def _join(rank: int, world: int, meeting: Path) -> None:
    """Become a rank, as torchrun would have it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
