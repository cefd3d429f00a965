"""Outlives whatever an attempt does to its process."""

import multiprocessing
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from soak.target import Target

HANG_S = 120
_MAX_FINDS = 5


@dataclass
class Tally:
    """What came of one target."""

    name: str
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    finds: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.most_common())
        found = "nothing found" if not self.finds else "\n".join(["FOUND", *self.finds])
        return f"{self.name}: {self.outcomes.total():,} attempts in {self.seconds:.0f} s ({told}); {found}"


def run_target(target: type[Target], seconds: float, seed: int, attempts: int | None) -> Tally:
    """Attempts of one target; a process that dies or hangs is a find, and the next goes on behind it."""
    tally, start = Tally(target.name), time.monotonic()
    context = multiprocessing.get_context("spawn")
    done = 0
    while len(tally.finds) < _MAX_FINDS:
        left = seconds - (time.monotonic() - start)
        if (done > 0 and left <= 0) if attempts is None else done >= attempts:
            break
        ours, theirs = context.Pipe(duplex=False)
        count = None if attempts is None else attempts - done
        child = context.Process(target=_attempt_all, args=(target, left, seed + done, count, theirs))
        child.start()
        theirs.close()
        done += _listen(ours, child, tally, seed + done)
        if child.is_alive():
            child.kill()
        child.join()
    tally.seconds = time.monotonic() - start
    return tally


def _listen(pipe: Connection, child: multiprocessing.process.BaseProcess, tally: Tally, seed: int) -> int:
    """Take in what the process tells until it ends; returns the number of attempts, an unfinished one included."""
    done = 0
    while True:
        try:
            told = pipe.recv() if pipe.poll(HANG_S) else ("find", f"nothing more after {HANG_S} s")
        except EOFError:
            child.join()
            told = ("find", f"the process ended with code {child.exitcode}")
        kind, text = told
        if kind == "end":
            return done
        done += 1
        if kind == "outcome":
            tally.outcomes[text] += 1
            continue
        tally.outcomes["found"] += 1
        tally.finds.append(f"python -m soak --only '{tally.name}' --attempts 1 --seed {seed + done - 1}\n{text}")
        return done


def _attempt_all(target: type[Target], seconds: float, seed: int, attempts: int | None, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = target()
        made.prepare(Path(folder))
        start, done = time.monotonic(), 0
        while done < attempts if attempts is not None else done == 0 or time.monotonic() - start < seconds:
            try:
                outcome = ("outcome", made.attempt(np.random.default_rng(seed + done)))
            except Exception:  # noqa: BLE001  whatever it is, it is a find
                outcome = ("find", traceback.format_exc())
            pipe.send(outcome)
            if outcome[0] == "find":
                return
            done += 1
    pipe.send(("end", ""))
