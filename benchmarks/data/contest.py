"""Runs every measure of every loader."""

import os
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

import torch

from benchmarks.data.child import in_child
from benchmarks.data.contender import Contender
from benchmarks.data.measures import MEASURES
from benchmarks.data.work import Figures, Outcome, Work
from benchmarks.environment import environment
from benchmarks.harness import WrongAnswerError

_PACKAGES = ("numpy", "datasets", "pyarrow", "mosaicml-streaming", "litdata")


def run_contest(entered: Sequence[Contender], measures: Sequence[str], work: Work) -> Iterator[dict[str, Any]]:
    """Rows as plain values, measure by measure, one a contender.

    Raises:
        WrongAnswerError: our own loader gave something else than was written.
    """
    facts = environment(torch.device("cpu")) | {name: _version(name) for name in _PACKAGES}
    facts |= {"cores": str(os.cpu_count()), "chunks": str(work.chunks)}
    written = _write(entered, work)
    ready = [contender for contender in entered if written[contender.files] == "ok"]
    unable = [(contender, written[contender.files], None) for contender in entered if contender not in ready]
    for measure in measures:
        for contender, status, figures in chain(_held(measure, ready, work), unable):
            row = {"measure": measure, "contender": contender.name, "environment": facts, "status": status}
            yield row | (figures or {})


def _write(entered: Sequence[Contender], work: Work) -> dict[str, str]:
    """How it went to write each kind of files."""
    written: dict[str, str] = {}
    for contender in entered:
        if contender.files not in written:
            folder = work.files(contender)
            folder.mkdir()
            written[contender.files], _ = in_child(lambda c=contender, f=folder: c.write(f, work.chunks))
    return written


def _held(measure: str, contenders: Sequence[Contender], work: Work) -> Iterator[Outcome]:
    for contender, status, figures in MEASURES[measure].hold(contenders, work):
        shutil.rmtree(work.scratch, ignore_errors=True)
        if contender.files == "fluxcore" and (fault := _fault(status, figures)):
            raise WrongAnswerError(f"{contender.name}, {measure}: {fault}")
        yield contender, status, figures


def _fault(status: str, figures: Figures | None) -> str | None:
    if status.startswith("wrong"):
        return status
    return figures["note"] if figures and figures.get("right") != figures.get("of") else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
