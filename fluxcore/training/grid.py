"""Many runs of one experiment below one folder: whole ones are kept, the others trained, and those that fail listed.

A run holds a lock while it trains, so that several processes, of one command or of several, share a grid. A lock ends
with its process, however that ends; the next command takes the run up from its last checkpoint.
"""

import fcntl
import json
import logging
import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from fluxcore.report.runs import WHOLE, read_metrics
from fluxcore.training.config import ConfigError

GRID = "grid.json"
"""In the folder of a grid: whose runs these are, and what they have in common."""
FAILED = "failed.json"
"""In the folder of a run that the last attempt could not finish: why."""
BEGUN = "attempt"
"""In the folder of a run: the attempt that began with it last."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a grid."""

    name: str
    """Of its folder."""
    train: Callable[[], Any]
    """Trains in that folder, and goes on where an earlier attempt ended there. Picklable where processes share."""
    budget: int | None = None
    """Optimizer steps; a whole run of a smaller budget that was spent goes on. None: a whole run stays as it is."""


def open_grid(folder: Path, experiment: str, common: Mapping[str, Any]) -> None:
    """Claim a folder for the runs of an experiment, before any of them begins.

    Args:
        folder: Made if absent.
        experiment: Its name.
        common: What all runs share, as JSON values; a run trained otherwise would not be comparable.
    Raises:
        ConfigError: the folder holds something else, or runs of another experiment or with other settings.
    """
    path = folder / GRID
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs["experiment"] != experiment:
            raise ConfigError(
                f"`{folder}` holds runs of the experiment {theirs['experiment']}, and these are of {experiment}"
                "\n\nGive another folder."
            )
        different = differences(theirs["common"], common)
        if different:
            raise ConfigError(
                f"`{folder}` holds runs with other settings: {different}\n\nSet it back, or give another folder."
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"`{folder}` is not empty, and no folder of runs: it has no {GRID}\n\nGive a new or an empty folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{GRID}.{os.getpid()}")
    ours = {"experiment": experiment, "common": dict(common)}
    temporary.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The keys whose values differ, with both values; empty where none does."""
    given = json.loads(json.dumps(given))
    return ", ".join(
        f"{key}={saved.get(key)} is now {given.get(key)}"
        for key in sorted(saved.keys() | given.keys())
        if saved.get(key) != given.get(key)
    )


def train_grid(folder: Path, jobs: Sequence[Job], *, processes: int = 1) -> dict[str, str]:
    """Train what is not yet whole; a run that fails does not stop the others.

    Args:
        folder: Holds a folder a run, named as its job.
        jobs: In the order in which they begin.
        processes: How many train at once; with 1 it is this one. Each of several has its share of the cores.
    Returns:
        Name of each job -> what became of it, in words; that of a run that failed begins with `failed`.
    """
    attempt = secrets.token_hex(4)
    kept = {job.name for job in jobs if is_whole(folder / job.name, job.budget)}
    if processes == 1:
        work(folder, jobs, attempt)
    else:
        context = multiprocessing.get_context("spawn")
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        workers = [context.Process(target=work, args=(folder, jobs, attempt, threads)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return {job.name: "kept" if job.name in kept else outcome(folder / job.name, job, attempt) for job in jobs}


def work(folder: Path, jobs: Sequence[Job], attempt: str, threads: int | None = None) -> None:
    """Train, one after the other, the jobs that no other process has, has finished, or has failed at."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    for job in jobs:
        run_dir = folder / job.name
        with locked(run_dir) as free:
            begun = run_dir / BEGUN
            # A run that took a process with it must not take the next one too.
            is_tried = begun.is_file() and begun.read_text(encoding="utf-8") == attempt
            if free and not is_tried and not is_whole(run_dir, job.budget):
                begun.write_text(attempt, encoding="utf-8")
                train_job(run_dir, job, attempt)


def train_job(run_dir: Path, job: Job, attempt: str) -> None:
    """Train one run, and write down that it is whole, or why it is not."""
    (run_dir / FAILED).unlink(missing_ok=True)
    try:
        job.train()
    except Exception as error:
        log.exception("run %s failed", job.name)
        first = str(error).splitlines()[0] if str(error) else ""
        text = json.dumps({"attempt": attempt, "error": f"{type(error).__name__}: {first}"})
        (run_dir / FAILED).write_text(text + "\n", encoding="utf-8")
        return
    whole = {"budget": job.budget, "steps": last_step(run_dir)}
    (run_dir / WHOLE).write_text(json.dumps(whole) + "\n", encoding="utf-8")


def outcome(run_dir: Path, job: Job, attempt: str) -> str:
    """What became of a run in this attempt."""
    error = failure(run_dir, attempt)
    if error is not None:
        return f"failed, {error}"
    if is_whole(run_dir, job.budget):
        return f"trained for {last_step(run_dir)} steps"
    with locked(run_dir) as free:
        return "failed, its process ended" if free else "left to the process that trains it"


def show_outcomes(outcomes: Mapping[str, str]) -> bool:
    """Print a line a run on standard output; whether none failed."""
    for name, text in outcomes.items():
        typer.echo(f"{name}: {text}")
    return not any(text.startswith("failed") for text in outcomes.values())


def failure(run_dir: Path, attempt: str) -> str | None:
    """Why the run failed in this attempt; None where it did not."""
    path = run_dir / FAILED
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return str(found["error"]) if found["attempt"] == attempt else None


def is_whole(run_dir: Path, budget: int | None = None) -> bool:
    """Whether the run spent this budget, or ended before a budget was spent."""
    if not (run_dir / WHOLE).exists():
        return False
    done: dict[str, Any] = json.loads((run_dir / WHOLE).read_text(encoding="utf-8"))
    return budget is None or done["budget"] is None or bool(done["budget"] >= budget or done["steps"] < done["budget"])


def last_step(run_dir: Path) -> int | None:
    """The step that a run logged last; None where it logged none."""
    path = run_dir / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return int(rows[-1]["step"]) if rows else None


@contextmanager
def locked(run_dir: Path) -> Iterator[bool]:
    """Hold a run for this process; whether it was free. A lock ends with its process, however that ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
