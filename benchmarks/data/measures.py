"""What is measured of each loader."""

import itertools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data import cold_large, corpus
from benchmarks.data.child import in_child, value_of
from benchmarks.data.contender import BATCH, Contender
from benchmarks.data.holding import each_alone, in_turns
from benchmarks.data.rates import cold, warm_figures, warm_turns
from benchmarks.data.resume import elastic, resume
from benchmarks.data.work import Contest, Figures, Work
from benchmarks.harness import OURS, WrongAnswerError


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One table."""

    title: str
    unit: str
    higher_is_better: bool
    hold: Contest
    ratios: bool = True
    """One figure may be set beside another as so many times it."""


def start(contender: Contender, work: Work) -> Figures:
    """From nothing to the first batch of a sparse set."""
    contender.write_sparse(work.scratch, work.sparse_chunks)
    os.sync()  # or the system would still be at it
    memory, begin = anonymous_mb(), time.perf_counter()
    batches = contender.start(work.scratch)
    opened = time.perf_counter() - begin
    next(batches)
    seconds, grown = time.perf_counter() - begin, anonymous_mb() - memory
    note = f"{opened * 1e3:.0f} ms to open; {grown:.0f} MB"
    return {"value": seconds * 1e3, "note": note, "mb": grown, "sparse_chunks": work.sparse_chunks}


def item(contender: Contender, work: Work) -> Figures:
    """One chunk by its number."""
    contender.open(work.files(contender))
    ids = np.random.default_rng(0).integers(0, work.chunks, 500).tolist()
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        for index in ids:
            contender.item(index)
        times.append((time.perf_counter() - begin) / len(ids) * 1e6)
    return {"value": sorted(times)[3], "note": ""}


def flips(contender: Contender, work: Work) -> Figures:
    """One bit of the tokens on the disk is changed, then the chunk is read: does anything say so?"""
    count, told = 64, 0
    work.scratch.mkdir()
    contender.write(work.scratch, count)
    files = [path for path in work.scratch.rglob("*") if path.is_file()]
    rows = next(corpus.blocks(count))
    rng = np.random.default_rng(1)
    if value_of(in_child(lambda: _read(contender, work.scratch, 0))) != rows[0].tobytes():
        raise WrongAnswerError("the first chunk is not what was written")
    for index, row in enumerate(rows):
        payload = row.tobytes()
        path, place = next((p, at) for p in files if (at := p.read_bytes().find(payload)) >= 0)
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[place + int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        # In a process each: not every loader gives back what it opened.
        read = value_of(in_child(lambda i=index: _read(contender, work.scratch, i)))
        if read == payload:
            raise WrongAnswerError("the chunk was not read from where it is stored")
        told += read is None
        path.write_bytes(sound)
    return {"value": 100 * told / count, "note": f"{told} of {count}"}


def _read(contender: Contender, folder: Path, index: int) -> bytes | None:
    """The chunk as the loader gives it; None where it says that something is wrong."""
    try:
        contender.open(folder)
        tokens = np.asarray(contender.item(index))
        return (tokens.astype(np.uint16) if tokens.dtype.kind in "iu" else tokens).tobytes()  # or bytes, as stored
    except ModuleNotFoundError:
        raise
    except Exception:  # noqa: BLE001  whatever it says, it says something
        return None


def spread(contender: Contender, work: Work) -> Figures:
    """How far the chunks of a batch lie apart in the file, against a true shuffle: what a sorted set depends on."""
    contender.open(work.files(contender))
    ids = np.concatenate([corpus.numbers(batch.numpy()) for batch in contender.batches(0)]).reshape(-1, BATCH)
    true = np.random.default_rng(0).permutation(work.chunks)[: ids.size].reshape(-1, BATCH)
    return {"value": ids.std(axis=1).mean() / true.std(axis=1).mean(), "note": ""}


def memory(contender: Contender, work: Work) -> Figures:
    """Anonymous memory over `work.batches`, after the first ones; a rival over as many of them as the time allows."""
    contender.open(work.files(contender))
    limit_s = math.inf if contender.name == OURS else 2 * work.seconds
    batches = itertools.chain.from_iterable(contender.batches(seed) for seed in itertools.count())
    next(batches)
    begin = time.perf_counter()
    while time.perf_counter() - begin < work.seconds / 4:
        next(batches)
    before, begin, count = anonymous_mb(), time.perf_counter(), 0
    while count < work.batches and (count == 0 or time.perf_counter() - begin < limit_s):
        next(batches)
        count += 1
    return {"value": anonymous_mb() - before, "note": f"over {count:,} batches", "batches": count}


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind, 1e6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e6


MEASURES = {
    "warm": Measure(
        title="warm, shuffled, int64", unit="M tokens/s", higher_is_better=True, hold=in_turns(warm_turns, warm_figures)
    ),
    "cold": Measure(title="cold, shuffled, int64", unit="M tokens/s", higher_is_better=True, hold=each_alone(cold)),
    "cold-large": Measure(
        title="cold, a set twice as large as memory", unit="M tokens/s", higher_is_better=True, hold=cold_large.hold
    ),
    "start": Measure(title="start-up, to the first batch", unit="ms", higher_is_better=False, hold=each_alone(start)),
    "resume": Measure(title="resume at 95% of an epoch", unit="ms", higher_is_better=False, hold=each_alone(resume)),
    "elastic": Measure(
        title="that state on other numbers of ranks",
        unit="% of batches right",
        higher_is_better=True,
        hold=each_alone(elastic),
    ),
    "item": Measure(title="one item", unit="us", higher_is_better=False, hold=each_alone(item)),
    "flips": Measure(title="flipped bits that are noticed", unit="%", higher_is_better=True, hold=each_alone(flips)),
    "spread": Measure(
        title="spread of a batch on sorted data",
        unit="of a true shuffle",
        higher_is_better=True,
        hold=each_alone(spread),
    ),
    "memory": Measure(
        title="growth of anonymous memory",
        unit="MB",
        higher_is_better=False,
        hold=each_alone(memory),
        ratios=False,  # of other numbers of batches
    ),
}
