"""Tokens a second, from files that are in memory and from files that are not."""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender
from benchmarks.data.work import BATCH_TOKENS, Figures, Work
from benchmarks.harness import WrongAnswerError, percentile


def warm_turns(contender: Contender, work: Work) -> Iterator[dict[str, float] | None]:
    """First one whole epoch, checked chunk by chunk, which also brings the files into memory; then a turn a step.

    A turn goes on in the epoch that the last one left, so that slow starts of epochs count by their share of the time.
    """
    contender.open(work.files(contender))
    check_epoch(contender, work.chunks)
    batches = itertools.chain.from_iterable(contender.batches(seed) for seed in itertools.count(1))
    next(batches)
    yield None
    while True:
        count, cpu, begin = 0, time.process_time(), time.perf_counter()
        while (seconds := time.perf_counter() - begin) < work.seconds / 4:
            next(batches)
            count += 1
        yield {"tokens": count * BATCH_TOKENS, "seconds": seconds, "cpu_s": time.process_time() - cpu}


def warm_figures(turns: Sequence[dict[str, float]]) -> Figures:
    """The median turn's M tokens/s, the spread, and core-seconds a G token over all turns."""
    rates = [turn["tokens"] / turn["seconds"] / 1e6 for turn in turns]
    p20, p50, p80 = (percentile(sorted(rates), share) for share in (0.2, 0.5, 0.8))
    core_s = sum(turn["cpu_s"] for turn in turns) / sum(turn["tokens"] for turn in turns) * 1e9
    note = f"{p20:.0f} to {p80:.0f}; {core_s:.2f} core-s a G token"
    return {"value": p50, "note": note, "core_s": core_s, "turns": [round(rate, 2) for rate in rates]}


def check_epoch(contender: Contender, chunks: int) -> None:
    """Each chunk once, with its tokens.

    Raises:
        WrongAnswerError: otherwise.
    """
    known = next(corpus.blocks(chunks))
    seen = np.zeros(chunks, int)
    for batch in contender.batches(0):
        rows = batch.numpy()
        ids = corpus.numbers(rows)
        if not ((ids >= 0) & (ids < chunks)).all():
            raise WrongAnswerError("tokens of no chunk")
        np.add.at(seen, ids, 1)
        among = ids < len(known)
        if not np.array_equal(rows[among], known[ids[among]]):
            raise WrongAnswerError("tokens of a chunk differ")
    if seen.max() > 1 or seen.sum() != chunks // BATCH * BATCH:
        raise WrongAnswerError(f"{seen.sum()} chunks of {chunks}, one of them {seen.max()} times")


def cold(contender: Contender, work: Work) -> Figures:
    """One shuffled epoch, or as much as the time allows, with the files thrown out of memory."""
    return cold_rate(contender, work.files(contender), work.seconds)


def cold_rate(contender: Contender, folder: Path, seconds: float) -> Figures:
    """As `cold`, from `folder`."""
    left = drop_from_memory(folder)
    contender.open(folder)
    start, count = time.perf_counter(), 0
    for _ in contender.batches(0):
        count += 1
        if time.perf_counter() - start > seconds:
            break
    rate = count * BATCH_TOKENS / (time.perf_counter() - start) / 1e6
    return {"value": rate, "note": f"{left:.0%} of the pages were still in memory" if left > 0.01 else ""}


def drop_from_memory(folder: Path) -> float:
    """Ask the system to forget the files; returns the share of pages that it kept."""
    kept, looked = 0, 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                for offset in range(0, path.stat().st_size, 1 << 20):
                    looked += 1
                    try:
                        kept += bool(os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT))
                    except BlockingIOError:
                        continue
    return kept / max(looked, 1)
