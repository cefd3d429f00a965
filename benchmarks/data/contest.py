"""Runs every measure of every loader, each in a process of its own."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.data.contender import CannotError, Contender
from benchmarks.data.fluxcore_loader import Fluxcore
from benchmarks.data.hf_datasets import Arrow
from benchmarks.data.lit import Lit
from benchmarks.data.measures import MEASURES, Work
from benchmarks.data.mosaic import Mosaic
from benchmarks.data.numpy_files import FancyIndex, InOrder, MapLoader
from benchmarks.environment import environment
from benchmarks.harness import WrongAnswerError

TIMEOUT_S = 300
_PACKAGES = ("numpy", "datasets", "pyarrow", "mosaicml-streaming", "litdata")


def contenders() -> list[Contender]:
    """All of them, ours first."""
    return [
        Fluxcore("fluxcore"),
        Fluxcore("fluxcore, tokens alone", targets=False),
        Fluxcore("fluxcore, no threads, tokens alone", threads=0, targets=False),
        Fluxcore("fluxcore, no CRC", verify="never"),
        Fluxcore("fluxcore, no CRC, tokens alone", verify="never", targets=False),
        Fluxcore("fluxcore, no look-ahead", look_ahead=0),
        InOrder(),
        FancyIndex(),
        MapLoader("numpy memmap + DataLoader", tuned=False),
        MapLoader("numpy memmap + DataLoader, tuned", tuned=True),
        Arrow("datasets", tuned=False),
        Arrow("datasets, tuned", tuned=True),
        Mosaic("mosaicml-streaming", tuned=False),
        Mosaic("mosaicml-streaming, tuned", tuned=True),
        Lit("litdata", tuned=False),
        Lit("litdata, tuned", tuned=True),
    ]


def run_contest(
    folder: Path,
    entered: Sequence[Contender],
    measures: Sequence[str],
    *,
    chunks: int,
    sparse_chunks: int,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """Rows as plain values, one a contender and measure.

    Raises:
        WrongAnswerError: our own loader gave something else than was written.
    """
    facts = environment(torch.device("cpu")) | {name: _version(name) for name in _PACKAGES}
    facts |= {"cores": str(os.cpu_count()), "chunks": str(chunks)}
    written: dict[str, str] = {}
    for contender in entered:
        files = folder / contender.files.replace(" ", "-")
        if contender.files not in written:
            files.mkdir()
            written[contender.files], _ = in_child(lambda c=contender, f=files: c.write(f, chunks))
        for measure in measures:
            row = {"measure": measure, "contender": contender.name, "environment": facts}
            if written[contender.files] != "ok":
                yield row | {"status": written[contender.files]}
                continue
            work = Work(
                folder=files,
                sparse=folder / "sparse",
                scratch=folder / "scratch",
                chunks=chunks,
                sparse_chunks=sparse_chunks,
                seconds=seconds,
            )
            status, figures = in_child(lambda c=contender, w=work, m=measure: MEASURES[m].run(c, w))
            for left in (work.sparse, work.scratch):
                shutil.rmtree(left, ignore_errors=True)
            if status.startswith("wrong") and contender.files == "fluxcore":
                raise WrongAnswerError(f"{contender.name}, {measure}: {status}")
            yield row | {"status": status} | (figures or {})


def in_child(work: Callable[[], Any]) -> tuple[str, Any]:
    """Run it in a fork of this process: `ok`, or why it did not end well, and what it returned."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(work, theirs))
    child.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(TIMEOUT_S) else (f"not done after {TIMEOUT_S} s", None)
    except EOFError:
        child.join()
        answer = (f"cannot run: its process ended with code {child.exitcode}", None)
    if child.is_alive():
        child.kill()
    child.join()
    return answer


def _answer(work: Callable[[], Any], pipe: Connection) -> None:
    try:
        answer = ("ok", work())
    except ModuleNotFoundError as error:
        answer = (f"not installed: {error.name}", None)
    except CannotError as error:
        answer = (f"cannot run: {error}", None)
    except WrongAnswerError as error:
        answer = (f"wrong answer: {error}", None)
    except Exception as error:  # noqa: BLE001  a rival's failure is its row, with what it said
        answer = (f"cannot run: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200], None)
    pipe.send(answer)
    pipe.close()
    os._exit(0)  # threads of a rival must not keep it


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
