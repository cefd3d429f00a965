"""A sort in tasks gives the bytes of `sort`: in any order of the tasks, at once, killed, and planned again."""

import os
import random
import signal
import traceback

import numpy as np
import pytest
from support.data_sets import write_data_set
from support.killing import killed_everywhere
from support.sort_jobs import MEMORY_BYTES, OPTIONS, SHARD_BYTES, contents, run_all, sorted_files, write_many

import fluxcore.data
from fluxcore.data import ShardWriter, SortJob, sort
from fluxcore.errors import DatasetLockedError


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def expected(ds, tmp_path_factory):
    return sorted_files(ds, tmp_path_factory.mktemp("expected") / "set")


@pytest.fixture(scope="module")
def both_ways(ds, expected, tmp_path_factory):
    """Files of the sort by one process, by whether it descends."""
    return {False: expected, True: sorted_files(ds, tmp_path_factory.mktemp("expected") / "set", descending=True)}


@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES, 1 << 30])
@pytest.mark.parametrize(("tasks", "descending"), [(1, True), (3, False), (7, True), (12, False)])
def test_the_bytes_do_not_depend_on_the_tasks(ds, both_ways, tmp_path, tasks, descending, memory_bytes):
    job = SortJob.plan(
        ds, tmp_path / "out", "score", descending, tasks=tasks, memory_bytes=memory_bytes, shard_bytes=SHARD_BYTES
    )
    assert (job.tasks, job.shards, job.chunks) == (tasks, len(both_ways[descending]) - 1, 3000)
    assert job.shards > 7
    order = random.Random(tasks).sample(range(tasks), tasks)
    for task in order:
        SortJob(tmp_path / "out").run(task)
    with pytest.raises(FileNotFoundError, match="interrupted"):
        fluxcore.data.open(tmp_path / "out")
    SortJob(tmp_path / "out").publish()
    assert contents(tmp_path / "out") == both_ways[descending]


def test_parts_and_columns_that_do_not_fit_into_shards_come_along(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for number, path in enumerate(paths):
        ds = write_data_set(path, 20 + number)
        ds.add_columns({f"c{i:03}": np.arange(len(ds)) for i in range(120)})
    sort(paths, tmp_path / "whole", "c005", memory_bytes=1 << 20, shard_bytes=600_000)
    assert len(fluxcore.data.open(tmp_path / "whole").manifest.shards[0].sidecars) == 1
    job = SortJob.plan(paths, tmp_path / "out", "c005", tasks=2, memory_bytes=1 << 20, shard_bytes=600_000)
    job.run(1)
    job.run(0)
    job.publish()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_empty_data_set_has_nothing_to_do(tmp_path):
    with ShardWriter(tmp_path / "set", chunk_tokens=16, vocab_size=10, sources=["web"], score_columns=["score"]):
        pass
    job = SortJob.plan(tmp_path / "set", tmp_path / "out", "score", tasks=2)
    assert job.shards == 0
    job.publish()
    assert len(fluxcore.data.open(tmp_path / "out")) == 0


def test_a_sort_killed_anywhere_goes_on(ds, expected, tmp_path):
    """Planned, run and published by processes that are killed at one place after the other, never beginning anew."""
    steps = {
        "plan": lambda tick: SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS),
        "run 1": lambda tick: SortJob(tmp_path / "out").run(1, progress=tick),
        "run 0": lambda tick: SortJob(tmp_path / "out").run(0, progress=tick),
        "publish": lambda tick: SortJob(tmp_path / "out").publish(),
    }
    kills, inodes = {}, {}
    for name, step in steps.items():
        kills[name] = 0
        for _ in killed_everywhere(step, stride=1 if name == "publish" else 11):
            kills[name] += 1
            for path in (tmp_path / "out").glob("shard-*.fxs"):
                assert inodes.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino, f"{name} wrote it again"
    assert contents(tmp_path / "out") == expected
    assert min(kills.values()) >= 2
    assert len(inodes) == len(expected) - 1


def test_a_kill_loses_only_the_shard_in_work(ds, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    done = []
    child = os.fork()
    if child == 0:
        try:
            job.run(1, progress=lambda at, _of: at > 900 and os.kill(os.getpid(), signal.SIGKILL))
        finally:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = list((tmp_path / "out").glob(".shard*.tmp"))
    assert len(left) == 1
    job.run(1, progress=lambda at, of: done.append((at, of)))
    assert done[0][0] >= 700
    assert done[-1][0] == done[-1][1]
    assert not left[0].exists()


def test_two_tasks_at_once_in_two_processes(ds, expected, tmp_path):
    """Each waits in the middle of its task until the other is there, too."""
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    (hear, tell), (hear_child, tell_child) = os.pipe(), os.pipe()

    def meet(say, listen):
        met = []

        def progress(at, of):
            if 0 < at < of and not met:
                met.append(at)
                os.write(say, b"x")
                assert os.read(listen, 1) == b"x"

        return progress

    child = os.fork()
    if child == 0:
        try:
            SortJob(tmp_path / "out").run(0, progress=meet(tell_child, hear))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    job.run(1, progress=meet(tell, hear_child))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (hear, tell, hear_child, tell_child):
        os.close(end)
    job.publish()
    assert contents(tmp_path / "out") == expected


def test_while_a_task_runs_it_is_not_run_twice_nor_is_anything_around_it_changed(ds, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    seen = []

    def others(_at, _of):
        for action in (
            lambda: job.run(0),
            job.publish,
            lambda: SortJob.plan(ds, tmp_path / "out", "score", tasks=3),
            lambda: sort(ds, tmp_path / "out", "score"),
        ):
            with pytest.raises(DatasetLockedError, match="out"):
                action()
        job.run(1)  # but another task may
        seen.append(True)

    job.run(0, progress=others)
    assert len(seen) > 1


def test_a_finished_task_does_nothing(ds, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    job.run(0)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("shard-*")}
    done = []
    job.run(0, progress=lambda at, of: done.append((at, of)))
    assert len(done) == 1
    assert done[0][0] == done[0][1] > 0
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("shard-*")} == before


def test_planned_again_with_other_tasks_it_keeps_finished_shards(ds, expected, tmp_path):
    first = SortJob.plan(ds, tmp_path / "out", "score", tasks=3, **OPTIONS)
    first.run(2)
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("shard-*")}
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=8, memory_bytes=1 << 30, shard_bytes=SHARD_BYTES)
    for action in (lambda: first.run(0), first.publish):
        with pytest.raises(ValueError, match="was planned anew meanwhile"):
            action()
    run_all(job)
    assert contents(tmp_path / "out") == expected
    assert kept
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in kept} == kept


def test_shards_of_another_sort_in_the_folder_are_not_taken_over(ds, expected, tmp_path):
    run_all(SortJob.plan(ds, tmp_path / "out", "score", True, tasks=2, **OPTIONS))
    (tmp_path / "out" / "manifest.json").unlink()
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    assert list((tmp_path / "out").glob("shard-*")) == []
    run_all(job)
    assert contents(tmp_path / "out") == expected
