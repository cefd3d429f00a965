"""Cold reads of a set larger than memory: `python -m benchmarks.data.cold_large NAME FOLDER SECONDS`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks import ROOT
from benchmarks.data import corpus
from benchmarks.data.child import TIMEOUT_S, Answer, in_child
from benchmarks.data.contender import CannotError, Contender
from benchmarks.data.entrants import contenders
from benchmarks.data.memory_limit import memory_limit
from benchmarks.data.rates import cold_rate
from benchmarks.data.work import Outcome, Work

_CHUNK_BYTES = 2 * corpus.CHUNK_TOKENS


def hold(entered: Sequence[Contender], work: Work) -> Iterator[Outcome]:
    """Each in half as much memory as the set is large, in a process of its own; the files of one kind at a time."""
    size_bytes = work.large_chunks * _CHUNK_BYTES
    try:
        with memory_limit(size_bytes // 2) as prefix:
            for _, group in groupby(entered, key=lambda contender: contender.files):
                yield from _hold_group(list(group), work, prefix)
    except CannotError as error:
        yield from ((contender, f"cannot run: {error}", None) for contender in entered)


def _hold_group(group: Sequence[Contender], work: Work, prefix: list[str]) -> Iterator[Outcome]:
    """Those that read the same files, which are written first and deleted after."""
    if not group[0].writes_fast:
        why = f"cannot run: writing {work.large_chunks:,} chunks one by one is left out, it takes minutes"
        yield from ((contender, why, None) for contender in group)
        return
    folder = work.root / "large"
    folder.mkdir()
    written, _ = in_child(lambda: group[0].write(folder, work.large_chunks))
    for contender in group:
        if written != "ok":
            yield contender, written, None
            continue
        status, figures = _limited(contender, folder, 2.5 * work.seconds, prefix)
        if figures:
            figures["note"] = "; ".join(filter(None, [_sizes(work), figures["note"]]))
        yield contender, status, figures
    shutil.rmtree(folder)


def _sizes(work: Work) -> str:
    size_gb = work.large_chunks * _CHUNK_BYTES / 1e9
    return f"{size_gb:.2g} GB in {size_gb / 2:.2g} GB of memory"


def _limited(contender: Contender, folder: Path, seconds: float, prefix: list[str]) -> Answer:
    command = [*prefix, sys.executable, "-m", "benchmarks.data.cold_large", contender.name, str(folder), str(seconds)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT_S} s", None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        return f"cannot run: its process ended with code {done.returncode}, {said[-1]}"[:200], None
    status, figures = json.loads(done.stdout.splitlines()[-1])
    return status, figures


def main(name: str, folder: str, seconds: str) -> None:
    """Measure it here and now, and print its status and figures."""
    contender = next(one for one in contenders() if one.name == name)
    sys.stdout.write(json.dumps(in_child(lambda: cold_rate(contender, Path(folder), float(seconds)))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
