"""What goes wrong in a sort in tasks is told, with the way out, and nothing finished is lost."""

import errno
import resource
import shutil
import signal

import numpy as np
import pytest
from support.data_sets import flip_bit, write_data_set
from support.sort_jobs import OPTIONS, contents, run_all, sorted_files, write_many

import fluxcore.data
from fluxcore.data import SortJob, sort_plan, sorted_copy
from fluxcore.data.ranking import rank_chunks
from fluxcore.data.sort_plan import SortPlan
from fluxcore.errors import CorruptShardError


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def expected(ds, tmp_path_factory):
    return sorted_files(ds, tmp_path_factory.mktemp("expected") / "set")


def test_what_is_missing_is_named(ds, expected, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=3, **OPTIONS)
    job.run(0)
    job.run(2)
    with pytest.raises(FileNotFoundError, match=r"run task 1 \(of 3, counted from 0\) again") as error:
        job.publish()
    assert error.value.filename == str(tmp_path / "out" / f"shard-{job.shards // 3:06}.fxs")
    job.run(1)
    (tmp_path / "out" / "shard-000006.fxs").unlink()
    with pytest.raises(FileNotFoundError, match=r"run task 2") as error:
        job.publish()
    assert error.value.filename == str(tmp_path / "out" / "shard-000006.fxs")
    job.run(2)
    job.publish()
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("damage", ["cut", "bit", "other"])
def test_a_shard_that_is_not_what_its_task_wrote_is_named_and_written_again(ds, expected, tmp_path, damage):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    job.run(0)
    job.run(1)
    shard = tmp_path / "out" / "shard-000002.fxs"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-4096])
    elif damage == "bit":
        columns = fluxcore.data.open(ds.path).column("doc_id")  # some eight bytes of that column of the shard
        place = int(rank_chunks(ds, "score")[2 * (3000 // 8 + 40)])
        data = bytearray(shard.read_bytes())
        at = data.rfind(columns[place].tobytes())
        data[at] ^= 1
        shard.write_bytes(data)
    else:
        shutil.copyfile(tmp_path / "out" / "shard-000001.fxs", shard)
    with pytest.raises(CorruptShardError, match=r"shard-000002.fxs` is corrupt(.|\n)*run task 0 \(of 2") as error:
        job.publish()
    assert error.value.shard == "shard-000002.fxs"
    job.run(0)
    job.publish()
    assert contents(tmp_path / "out") == expected


def test_a_bad_chunk_stops_its_task_alone(ds, tmp_path):
    shutil.copytree(ds.path, tmp_path / "set")
    bad = int(rank_chunks(ds, "score")[2900])
    shard = tmp_path / "set" / next(s.name for s in ds.manifest.shards if bad < s.base + s.chunks)
    sound = shard.read_bytes()
    flip_bit(shard, ds[bad].tobytes())
    job = SortJob.plan(tmp_path / "set", tmp_path / "out", "score", tasks=2, **OPTIONS)
    job.run(0)
    with pytest.raises(CorruptShardError, match=f"chunk {bad}"):
        job.run(1)
    shard.write_bytes(sound)
    job.run(1)
    job.publish()
    fluxcore.data.open(tmp_path / "out").verify()


def test_a_data_set_that_changed_since_is_refused(tmp_path):
    ds = write_data_set(tmp_path / "set", 300)
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    job.run(0)
    ds.add_column("more", np.arange(300))
    for action in (lambda: job.run(1), job.publish):
        with pytest.raises(ValueError, match=r"set` has changed since the sort into .*out` was planned"):
            action()


def test_what_stands_at_the_target_is_not_written_over(ds, expected, tmp_path):
    write_data_set(tmp_path / "other")
    with pytest.raises(FileExistsError, match="the folder holds a data set already"):
        SortJob.plan(ds, tmp_path / "other", "score", tasks=2)
    with pytest.raises(ValueError, match="`dst` must be another folder"):
        SortJob.plan(ds, ds.path, "score", tasks=2)
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    run_all(job)
    for action in (lambda: job.run(0), job.publish, lambda: SortJob(tmp_path / "out")):
        with pytest.raises(FileNotFoundError, match="which may be the sort, published"):
            action()
    with pytest.raises(FileExistsError, match="published already"):
        SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    assert contents(tmp_path / "out") == expected


def test_a_folder_without_a_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sort by tasks is planned in this folder: "):
        SortJob(tmp_path)


def test_a_damaged_plan_and_a_newer_one_are_refused(ds, tmp_path, monkeypatch):
    SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    path = tmp_path / "out" / ".sort" / "job.json"
    sound = path.read_bytes()
    for damaged in (sound.replace(b'"tasks": 2', b'"tasks": 3'), sound[:-1], b"", b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(CorruptShardError, match=r"job.json` is corrupt: its CRC"):
            SortJob(tmp_path / "out")
    path.write_bytes(sound)
    plan = SortPlan.read(tmp_path / "out")
    monkeypatch.setattr(sort_plan, "_VERSION", 2)
    plan.write(tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="written by another version"):
        SortJob(tmp_path / "out")


def test_lost_keys_are_told(ds, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    (tmp_path / "out" / ".sort" / "plan.json").unlink()
    with pytest.raises(ValueError, match="lacks the keys that were planned"):
        job.run(0)
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    (tmp_path / "out" / ".sort" / "keys-000").write_bytes(b"")
    with pytest.raises(CorruptShardError, match="keys-000"):
        job.run(0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": 0}, "`tasks` must be >= 1, got 0"),
        ({"memory_bytes": 1000}, "`memory_bytes` is too little to sort 3000 chunks"),
        ({"shard_bytes": 10}, "`shard_bytes` must be within"),
        ({"column": "entropy"}, "`column` must be a score of the data set"),
        ({"src": []}, "got an empty list"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_planned_is_refused(ds, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        SortJob.plan(**{"src": ds, "dst": tmp_path / "out", "column": "score", "tasks": 2, **OPTIONS, **changed})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_that_was_not_planned(ds, tmp_path, task):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    with pytest.raises(ValueError, match=rf"`task` must be within \[0, 2\), .* got {task}"):
        job.run(task)


def test_a_disk_without_room_is_told_before_anything_is_written(ds, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(sorted_copy.shutil, "disk_usage", lambda _path: usage._replace(free=100_000))
    with pytest.raises(OSError, match=r"the disk has 0\.000 GB free") as error:
        SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    assert error.value.errno == errno.ENOSPC
    assert contents(tmp_path / "out") == {}


def test_a_disk_that_fills_up_stops_a_task_which_goes_on_later(ds, expected, tmp_path):
    job = SortJob.plan(ds, tmp_path / "out", "score", tasks=2, **OPTIONS)
    job.run(0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write: File too large") as error:
            job.run(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(tmp_path / "out") in error.value.filename
    assert list((tmp_path / "out").glob(".shard*")) == []
    job.run(1)
    job.publish()
    assert contents(tmp_path / "out") == expected
