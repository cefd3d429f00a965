"""The contest of loaders tells a right answer from a wrong one, and survives a rival that does not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data import contest, corpus, report
from benchmarks.data.contender import CannotError
from benchmarks.data.measures import MEASURES, Work, check_epoch, spread
from benchmarks.data.numpy_files import FancyIndex
from benchmarks.harness import WrongAnswerError

ROOT = Path(__file__).parents[2]
CHUNKS = 256


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every measure, on few chunks, of our loader and of one that is always there."""
    folder = tmp_path_factory.mktemp("contest")
    command = [
        sys.executable, "-m", "benchmarks.data", "--chunks", str(CHUNKS), "--sparse-chunks", "20000",
        "--seconds", "0.05", "--contender", "fluxcore", "numpy fancy index",
        "--out", str(folder / "rows.jsonl"), "--folder", str(folder),
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert ran.stdout == report.markdown(rows)
    return {(row["measure"], row["contender"]): row for row in rows}


def test_every_measure_has_a_figure(rows):
    assert {key: row["status"] for key, row in rows.items() if row["status"] != "ok"} == {}
    assert {measure for measure, _ in rows} == set(MEASURES)


def test_only_one_of_them_notices_a_flipped_bit(rows):
    assert rows["flips", "fluxcore"]["value"] == 100
    assert rows["flips", "numpy fancy index"]["value"] == 0


def test_both_shuffle_truly(rows):
    for name in ("fluxcore", "numpy fancy index"):
        assert 0.9 < rows["spread", name]["value"] < 1.1


class Rigged(FancyIndex):
    """Holds the chunks in memory and gives those that it is told to."""

    def __init__(self, order):
        self._order = np.asarray(order)

    def open(self, folder):
        self._map = np.concatenate(list(corpus.blocks(CHUNKS)))

    def batches(self, seed):
        for ids in self._order.reshape(-1, 32):
            yield torch.from_numpy(self._map[ids].astype(np.int64))


@pytest.mark.parametrize(
    ("order", "fault"),
    [
        (np.arange(CHUNKS - 32), "224 chunks of 256"),
        (np.r_[0, 0, 2:CHUNKS], "one of them 2 times"),
    ],
    ids=["too few", "twice"],
)
def test_an_epoch_must_be_whole(tmp_path, order, fault):
    rigged = Rigged(order)
    rigged.open(tmp_path)
    with pytest.raises(WrongAnswerError, match=fault):
        check_epoch(rigged, CHUNKS)


def test_the_tokens_must_be_right(tmp_path):
    rigged = Rigged(np.arange(CHUNKS))
    rigged.open(tmp_path)
    check_epoch(rigged, CHUNKS)
    rigged._map[7, 9] ^= 1
    with pytest.raises(WrongAnswerError, match="differ"):
        check_epoch(rigged, CHUNKS)


def test_reading_in_order_has_next_to_no_spread(tmp_path):
    work = Work(
        folder=tmp_path, sparse=tmp_path, scratch=tmp_path, chunks=CHUNKS, sparse_chunks=1, seconds=0.1
    )  # fmt: skip
    assert spread(Rigged(np.arange(CHUNKS)), work)["value"] < 0.2


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("work", "status"),
    [
        (lambda: 7, "ok"),
        (lambda: fail(ModuleNotFoundError("no", name="litdata")), "not installed: litdata"),
        (lambda: fail(CannotError("no sparse files")), "cannot run: no sparse files"),
        (lambda: fail(WrongAnswerError("another batch")), "wrong answer: another batch"),
        (lambda: fail(OSError("gone\nand more")), "cannot run: OSError: gone"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "cannot run: its process ended with code -9"),
    ],
    ids=["ok", "missing", "unable", "wrong", "error", "signal"],
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_how_a_rival_can_end(work, status):
    assert contest.in_child(work)[0] == status


def test_a_rival_without_a_figure_has_a_row_that_says_so():
    environment = {"device": "here"}
    rows = [
        {
            "measure": "item",
            "contender": "fluxcore",
            "status": "ok",
            "value": 2.0,
            "note": "",
            "environment": environment,
        },
        {"measure": "item", "contender": "slow", "status": "ok", "value": 6.0, "note": "n", "environment": environment},
        {"measure": "item", "contender": "fast", "status": "ok", "value": 1.0, "note": "", "environment": environment},
        {"measure": "item", "contender": "gone", "status": "not installed: gone", "environment": environment},
    ]
    assert report.markdown(rows).splitlines()[4:] == [
        "| fluxcore | 2 |  |  |",
        "| slow | 6 | 3x | n |",
        "| fast | 1 | 0.5x |  |",
        "| gone | not installed: gone | | |",
    ]
