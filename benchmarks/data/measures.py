"""What is measured of each loader. Every function runs in a process of its own, with nothing opened before."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender
from benchmarks.harness import WrongAnswerError, percentile

BATCH_TOKENS = BATCH * corpus.CHUNK_TOKENS


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where the files are, and for how long to measure."""

    folder: Path
    """Holds what the contender wrote."""
    sparse: Path
    """Holds its sparse set."""
    scratch: Path
    """Empty."""
    chunks: int
    sparse_chunks: int
    seconds: float


Figures = dict[str, float | str]
"""`value`, and what else is to be told."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One table."""

    title: str
    unit: str
    higher_is_better: bool
    run: Callable[[Contender, Work], Figures]


def warm(contender: Contender, work: Work) -> Figures:
    """Shuffled epochs with the files in memory; the first one is checked chunk by chunk."""
    contender.open(work.folder)
    check_epoch(contender, work.chunks)
    rates, tokens, cpu, begin = [], 0, time.process_time(), time.perf_counter()
    for seed in itertools.count(1):
        start = time.perf_counter()
        count = sum(1 for _ in contender.batches(seed))
        rates.append(count * BATCH_TOKENS / (time.perf_counter() - start) / 1e6)
        tokens += count * BATCH_TOKENS
        if len(rates) >= 3 and time.perf_counter() - begin > work.seconds:
            break
    cpu_s = (time.process_time() - cpu) / tokens * 1e9
    rates.sort()
    p20, p50, p80 = (percentile(rates, share) for share in (0.2, 0.5, 0.8))
    return {"value": p50, "note": f"{p20:.0f} to {p80:.0f}; {cpu_s:.2f} core-s a G token"}


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
    left = drop_from_memory(work.folder)
    contender.open(work.folder)
    start, count = time.perf_counter(), 0
    for _ in contender.batches(0):
        count += 1
        if time.perf_counter() - start > work.seconds:
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


def start(contender: Contender, work: Work) -> Figures:
    """From nothing to the first batch of a sparse set."""
    contender.write_sparse(work.sparse, work.sparse_chunks)
    os.sync()  # or the system would still be at it
    memory, begin = anonymous_mb(), time.perf_counter()
    batches = contender.start(work.sparse)
    opened = time.perf_counter() - begin
    next(batches)
    seconds = time.perf_counter() - begin
    return {"value": seconds * 1e3, "note": f"{opened * 1e3:.0f} ms to open; {anonymous_mb() - memory:.0f} MB"}


def resume(contender: Contender, work: Work) -> Figures:
    """From the state at 95% of an epoch to the batch that follows, which must be the one of a run without a break."""
    contender.open(work.folder)
    step = int(work.chunks // BATCH * 0.95)
    expected = next(itertools.islice(contender.batches(7), step, None))
    state, times = contender.state(7, step), []
    for _ in range(3):
        begin = time.perf_counter()
        batch = next(contender.resume(state))
        times.append(time.perf_counter() - begin)
        if not np.array_equal(batch.numpy(), expected.numpy()):
            raise WrongAnswerError("another batch than without a break")
    return {"value": sorted(times)[1] * 1e3, "note": ""}


def item(contender: Contender, work: Work) -> Figures:
    """One chunk by its number."""
    contender.open(work.folder)
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
    work.scratch.mkdir(parents=True)
    contender.write(work.scratch, count)
    files = [path for path in work.scratch.rglob("*") if path.is_file()]
    rows = next(corpus.blocks(count))
    rng = np.random.default_rng(1)
    for index, row in enumerate(rows):
        payload = row.tobytes()
        path, place = next((p, at) for p in files if (at := p.read_bytes().find(payload)) >= 0)
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[place + int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            contender.open(work.scratch)
            read = np.asarray(contender.item(index))
        except Exception:  # noqa: BLE001  whatever it says, it says something
            told += 1
        else:
            if read.tobytes() == payload:
                raise WrongAnswerError("the chunk was not read from where it is stored")
        path.write_bytes(sound)
    return {"value": 100 * told / count, "note": f"{told} of {count}"}


def spread(contender: Contender, work: Work) -> Figures:
    """How far the chunks of a batch lie apart in the file, against a true shuffle: what a sorted set depends on."""
    contender.open(work.folder)
    ids = np.concatenate([corpus.numbers(batch.numpy()) for batch in contender.batches(0)]).reshape(-1, BATCH)
    true = np.random.default_rng(0).permutation(work.chunks)[: ids.size].reshape(-1, BATCH)
    return {"value": ids.std(axis=1).mean() / true.std(axis=1).mean(), "note": ""}


def memory(contender: Contender, work: Work) -> Figures:
    """Anonymous memory over many batches, after the first ones."""
    contender.open(work.folder)
    begin, count, before, first, seed = time.perf_counter(), 0, 0.0, 0, 0
    while not first or time.perf_counter() - begin < 2 * work.seconds:
        count += sum(1 for _ in contender.batches(seed))
        seed += 1
        if not first and time.perf_counter() - begin > work.seconds / 4:
            before, first = anonymous_mb(), count
    return {"value": anonymous_mb() - before, "note": f"over {count - first:,} batches"}


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind, 1e6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e6


MEASURES = {
    "warm": Measure(title="warm, shuffled, int64", unit="M tokens/s", higher_is_better=True, run=warm),
    "cold": Measure(title="cold, shuffled, int64", unit="M tokens/s", higher_is_better=True, run=cold),
    "start": Measure(title="start-up, to the first batch", unit="ms", higher_is_better=False, run=start),
    "resume": Measure(title="resume at 95% of an epoch", unit="ms", higher_is_better=False, run=resume),
    "item": Measure(title="one item", unit="us", higher_is_better=False, run=item),
    "flips": Measure(title="flipped bits that are noticed", unit="%", higher_is_better=True, run=flips),
    "spread": Measure(
        title="spread of a batch on sorted data", unit="of a true shuffle", higher_is_better=True, run=spread
    ),
    "memory": Measure(title="growth of anonymous memory", unit="MB", higher_is_better=False, run=memory),
}
