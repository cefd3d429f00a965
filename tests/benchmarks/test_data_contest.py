"""The contest of loaders tells a right answer from a wrong one, and survives a rival that does not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data import child, contest, corpus, measures, report
from benchmarks.data.contender import CannotError
from benchmarks.data.holding import TURNS, in_turns
from benchmarks.data.measures import MEASURES
from benchmarks.data.numpy_files import FancyIndex
from benchmarks.data.rates import check_epoch
from benchmarks.data.resume import elastic, resume
from benchmarks.data.work import Work
from benchmarks.harness import WrongAnswerError

ROOT = Path(__file__).parents[2]
CHUNKS = 256
NAMES = ("fluxcore", "numpy fancy index")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Measures that need neither ranks nor a limit on memory, on few chunks, of our loader and of one always there."""
    folder = tmp_path_factory.mktemp("contest")
    command = [
        sys.executable, "-m", "benchmarks.data", "--chunks", str(CHUNKS), "--sparse-chunks", "20000",
        "--seconds", "0.05", "--batches", "64", "--contender", *NAMES,
        "--measure", *(name for name in MEASURES if name not in ("elastic", "cold-large")),
        "--out", str(folder / "rows.jsonl"), "--folder", str(folder),
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert ran.stdout == report.markdown(rows)
    assert [path.name for path in folder.iterdir()] == ["rows.jsonl"]
    return {(row["measure"], row["contender"]): row for row in rows}


def test_every_measure_has_a_figure(rows):
    assert {key: row["status"] for key, row in rows.items() if row["status"] != "ok"} == {}
    assert {measure for measure, _ in rows} == set(MEASURES) - {"elastic", "cold-large"}


def test_only_one_of_them_notices_a_flipped_bit(rows):
    assert rows["flips", "fluxcore"]["value"] == 100
    assert rows["flips", "numpy fancy index"]["value"] == 0


def test_both_shuffle_truly(rows):
    for name in NAMES:
        assert 0.9 < rows["spread", name]["value"] < 1.1


def test_what_targets_need_is_in_the_rows(rows):
    for name in NAMES:
        assert len(rows["warm", name]["turns"]) == TURNS
        assert rows["warm", name]["core_s"] > 0
        assert rows["resume", name]["right"] == rows["resume", name]["of"] == 1
        assert rows["start", name]["sparse_chunks"] == 20000
    assert rows["memory", "fluxcore"]["batches"] == 64


class Rigged(FancyIndex):
    """Holds the chunks in memory and gives those that it is told to."""

    def __init__(self, order=range(CHUNKS)):
        self._order = np.asarray(order)

    def open(self, folder):
        self._map = np.concatenate(list(corpus.blocks(CHUNKS)))

    def batches(self, seed):
        for ids in self._order.reshape(-1, 32):
            yield torch.from_numpy(self._map[ids].astype(np.int64))


def work(tmp_path, chunks=CHUNKS):
    return Work(root=tmp_path, chunks=chunks, sparse_chunks=1, batches=20, seconds=0.01)


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
    rigged = Rigged()
    rigged.open(tmp_path)
    check_epoch(rigged, CHUNKS)
    rigged._map[7, 9] ^= 1
    with pytest.raises(WrongAnswerError, match="differ"):
        check_epoch(rigged, CHUNKS)


def test_reading_in_order_has_next_to_no_spread(tmp_path):
    assert measures.spread(Rigged(), work(tmp_path))["value"] < 0.2


class OffByOne(Rigged):
    """Forgets a batch when it goes on."""

    def resume(self, state):
        batches = super().resume(state)
        next(batches)
        return batches


def test_batches_after_a_resume_are_counted(tmp_path):
    half = work(tmp_path, chunks=CHUNKS // 2)  # the state is taken at 3 of the epoch's 8 batches
    assert resume(Rigged(), half) | {"value": 0} == {"value": 0, "note": "5 of 5 batches right", "right": 5, "of": 5}
    assert resume(OffByOne(), half)["right"] == 0


class OfRanks(Rigged):
    """Gives ranks their rows, in blocks, which is right, or each from a part of its own."""

    def __init__(self, *, right):
        super().__init__()
        self._right = right

    def share(self, seed, state, rank, world) -> Iterator[torch.Tensor]:
        numbers = np.arange(CHUNKS).reshape(-1, world, 32 // world)
        own = numbers[:, rank] if self._right else np.arange(CHUNKS).reshape(world, -1, 32 // world)[rank]
        for ids in own[0 if state is None else state[1] :]:
            yield torch.from_numpy(self._map[ids].astype(np.int64))


@pytest.mark.parametrize(("right", "value"), [(True, 100), (False, 0)], ids=["right", "wrong"])
def test_shares_of_ranks_are_put_together(tmp_path, right, value):
    figures = elastic(OfRanks(right=right), work(tmp_path))
    assert figures["value"] == value
    assert figures["of"] == 3
    assert child.in_child(lambda: elastic(Rigged(), work(tmp_path)))[0] == "cannot run: it knows no ranks"


@pytest.mark.parametrize(
    ("status", "figures"),
    [("wrong answer: another", None), ("ok", {"value": 1.0, "note": "49 of 50", "right": 49, "of": 50})],
    ids=["answer", "resume"],
)
def test_our_own_wrong_answer_stops_the_run(tmp_path, monkeypatch, status, figures):
    ours = Rigged()
    ours.name = ours.files = "fluxcore"
    measure = measures.Measure(
        title="t", unit="u", higher_is_better=True, hold=lambda entered, work: iter([(ours, status, figures)])
    )
    monkeypatch.setitem(MEASURES, "item", measure)
    with pytest.raises(WrongAnswerError, match=r"fluxcore, item: (wrong answer: another|49 of 50)"):
        list(contest.run_contest([ours], ["item"], work(tmp_path)))


def test_memory_counts_its_batches(tmp_path):
    ours = Rigged()
    ours.name = "fluxcore"
    assert measures.memory(ours, work(tmp_path))["batches"] == 20
    assert 1 <= measures.memory(Rigged(), work(tmp_path))["batches"] <= 20


class BlindToDamage(FancyIndex):
    """Writes what all write, and says so where a chunk is not that; but is wrong about the first one."""

    def item(self, index):
        return np.zeros(3) if index == 0 else super().item(index)


def test_a_loader_that_cannot_read_is_not_taken_for_one_that_notices(tmp_path):
    with pytest.raises(WrongAnswerError, match="first chunk"):
        measures.flips(BlindToDamage(), work(tmp_path))


class Widened(FancyIndex):
    def item(self, index):
        return super().item(index).astype(np.int64)


def test_a_chunk_in_wider_integers_is_the_same_chunk(tmp_path):
    assert measures.flips(Widened(), work(tmp_path)) == {"value": 0, "note": "0 of 64"}


def test_turns_alternate_and_one_that_fails_does_not_stop_the_others(tmp_path):
    log = tmp_path / "log"

    def steps(contender, work):
        turn = 0
        while True:
            if contender == "fails" and turn == 2:
                raise CannotError("no more")
            with log.open("a") as file:
                file.write(contender[0])
            yield turn
            turn += 1

    held = list(in_turns(steps, lambda turns: {"turns": list(turns)})(["a", "fails", "b"], work(tmp_path)))
    assert held == [
        ("a", "ok", {"turns": list(range(1, TURNS + 1))}),
        ("fails", "cannot run: no more", None),
        ("b", "ok", {"turns": list(range(1, TURNS + 1))}),
    ]
    assert log.read_text() == "afb" * 2 + "ab" * (TURNS - 1)


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
        (lambda: child.value_of(("not done after 300 s", None)), "not done after 300 s"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "cannot run: its process ended with code -9"),
    ],
    ids=["ok", "missing", "unable", "wrong", "error", "handed on", "signal"],
)
def test_how_a_rival_can_end(work, status):
    assert child.in_child(work)[0] == status


def test_ranks_that_wait_for_one_that_failed_are_not_waited_for():
    def run(rank):
        if rank == 0:
            signal.pause()
        yield fail(OSError("gone"))

    with child.Child(lambda: run(0)) as waits, child.Child(lambda: run(1)) as fails:
        given = child.answers([waits, fails])
    assert [status for status, _ in given] == ["left, as another one failed", "cannot run: OSError: gone"]
