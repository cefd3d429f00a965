"""A sort within a memory limit gives the bytes of the sort in memory, and goes on where it was cut off."""

import errno
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_sets import flip_bit, write_data_set

import fluxcore.data
from fluxcore.data import ShardWriter, sort, sort_disk_bytes, sort_rows, sorted_copy
from fluxcore.data.manifest import SortKey
from fluxcore.data.partitions import open_partitions, ranked_ids
from fluxcore.data.parts import Parts
from fluxcore.data.ranking import rank_chunks
from fluxcore.data.sort_identity import sorted_manifest
from fluxcore.data.sort_memory import SortMemory, divide_memory
from fluxcore.errors import CorruptShardError, DatasetLockedError

SHARD_BYTES = 80_000  # a few hundred of the small chunks
MEMORY_BYTES = 240_000  # so that they make several partitions


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    ds = write_data_set(tmp_path_factory.mktemp("data") / "set", 3000, chunks_per_shard=400)
    ds.add_column("cluster", (np.arange(3000) * 7 % 50).astype(np.uint16), definition="unsigned")
    return ds


@pytest.fixture(scope="module")
def expected(ds, tmp_path_factory):
    """Files of the sort in memory, by direction."""
    folder = tmp_path_factory.mktemp("expected")
    for down in (False, True):
        sort(ds, folder / str(down), "score", down, shard_bytes=SHARD_BYTES)
    return {down: contents(folder / str(down)) for down in (False, True)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".fluxcore.lock"}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES, 400_000, 1 << 30])
def test_the_bytes_do_not_depend_on_the_memory(ds, expected, tmp_path, memory_bytes, descending):
    done = []
    sort(
        ds, tmp_path / "sorted", "score", descending, memory_bytes=memory_bytes, shard_bytes=SHARD_BYTES,
        progress=lambda at, of: done.append((at, of)),
    )  # fmt: skip
    assert contents(tmp_path / "sorted") == expected[descending]
    assert (done[0], done[-1]) == ((0, 3000), (3000, 3000))
    assert done == sorted(done)
    fluxcore.data.open(tmp_path / "sorted").verify()


def test_the_sort_had_to_make_partitions(ds):
    memory = divide_memory(Parts([ds]), ds.columns, MEMORY_BYTES, shard_chunks=300)
    assert 1 < 3000 // memory.partition < 256
    assert memory.run < 3000


@pytest.mark.parametrize("memory_bytes", [200_000, 320_000])  # several partitions, and one
def test_the_chunks_of_a_partition_are_read_in_blocks(tmp_path, memory_bytes):
    ds = write_data_set(tmp_path / "set", 600, chunk_tokens=512, chunks_per_shard=200)
    memory = divide_memory(Parts([ds]), ds.columns, memory_bytes, shard_chunks=60)
    assert 2 * memory.block < min(memory.partition, 600)
    assert (memory.partition < 600) == (memory_bytes == 200_000)
    sort(ds, tmp_path / "memory", "score", shard_bytes=120_000)
    sort(ds, tmp_path / "blocks", "score", shard_bytes=120_000, memory_bytes=memory_bytes)
    assert contents(tmp_path / "blocks") == contents(tmp_path / "memory")


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.sampled_from([-2.5, -0.0, 0.0, 1.0, 7.25]), min_size=1, max_size=90),
    partition=st.integers(1, 40),
    run=st.integers(1, 50),
    descending=st.booleans(),
)
def test_no_partition_has_more_chunks_than_it_may(tmp_path_factory, scores, partition, run, descending):
    folder = tmp_path_factory.mktemp("parts")
    count = len(scores)
    with ShardWriter(folder / "set", chunk_tokens=2, vocab_size=9, sources=["a", "b"], score_columns=["s"]) as writer:
        writer.append_batch(
            np.zeros((count, 2), int),
            sources=np.arange(count) % 2,
            doc_ids=np.arange(count) % 3,
            doc_offsets=np.zeros(count, int),
            scores={"s": scores},
        )
    data = fluxcore.data.open(folder / "set")
    memory = SortMemory(partition=partition, block=partition, run=run, batch=7, samples=1000)
    partitions = open_partitions(
        folder / "work", Parts([data]), SortKey(column="s", descending=descending), memory, identity="this order"
    )
    assert max(part.chunks for part in partitions) <= partition
    assert np.array_equal(np.concatenate(list(ranked_ids(partitions))), rank_chunks(data, "s", descending=descending))


def test_masks_and_short_chunks_come_along(tmp_path):
    rng = np.random.default_rng(0)
    lengths, mask = rng.integers(1, 12, 70), rng.integers(0, 2, (70, 11)).astype(bool)
    with ShardWriter(
        tmp_path / "set", chunk_tokens=11, vocab_size=99, sources=["a"], score_columns=["s"], token_mask=True
    ) as writer:
        writer.append_batch(
            rng.integers(0, 99, (70, 11)), sources="a", doc_ids=np.arange(70), doc_offsets=np.zeros(70, int),
            valid_lens=lengths, mask=mask, scores={"s": rng.permutation(70)},
        )  # fmt: skip
    ds = fluxcore.data.open(tmp_path / "set")
    sort(ds, tmp_path / "memory", "s")
    sort(ds, tmp_path / "parts", "s", memory_bytes=30_000)
    assert contents(tmp_path / "memory") == contents(tmp_path / "parts")
    copy = fluxcore.data.open(tmp_path / "parts")
    copy.verify()
    for place, chunk in enumerate(rank_chunks(ds, "s").tolist()):
        assert copy[place].tolist() == ds[chunk].tolist()
        assert copy.token_mask(place).tolist() == ds.token_mask(chunk).tolist()


SLOW_SORT = """
import sys, time, fluxcore.data
from fluxcore.data import sort_rows
sort_rows._BATCH_BYTES = 4096
fluxcore.data.sort(sys.argv[1], sys.argv[2], "score", memory_bytes=int(sys.argv[3]) or None,
                   shard_bytes=int(sys.argv[4]), progress=lambda done, total: time.sleep(0.05))
"""


@pytest.mark.parametrize("memory_bytes", [0, MEMORY_BYTES])
def test_a_killed_sort_goes_on_from_its_finished_shards(ds, expected, tmp_path, memory_bytes):
    folder = tmp_path / "sorted"
    arguments = [str(ds.path), str(folder), str(memory_bytes), str(SHARD_BYTES)]
    process = subprocess.Popen([sys.executable, "-c", SLOW_SORT, *arguments])
    deadline = time.monotonic() + 120
    while len(list(folder.glob("shard-*.fxs"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_ino for path in folder.glob("shard-*.fxs")}
    with pytest.raises(FileNotFoundError, match="interrupted"):
        fluxcore.data.open(folder)
    done = []
    options = {"memory_bytes": memory_bytes or None, "shard_bytes": SHARD_BYTES}
    sort(ds, folder, "score", **options, progress=lambda at, of: done.append(at))
    assert contents(folder) == expected[False]
    assert done[0] > 0
    assert {path: path.stat().st_ino for path in kept} == kept


@pytest.mark.parametrize("memory_bytes", [None, MEMORY_BYTES])
def test_what_was_finished_before_a_bad_chunk_is_kept(tmp_path, monkeypatch, memory_bytes):
    monkeypatch.setattr(sort_rows, "_BATCH_BYTES", 4096)
    ds = write_data_set(tmp_path / "set", 3000, chunks_per_shard=400)
    options = {"memory_bytes": memory_bytes, "shard_bytes": SHARD_BYTES}
    sort(ds, tmp_path / "whole", "score", **options)
    bad = int(rank_chunks(ds, "score")[2500])
    shard = tmp_path / "set" / next(s.name for s in ds.manifest.shards if bad < s.base + s.chunks)
    sound = shard.read_bytes()
    flip_bit(shard, ds[bad].tobytes())
    with pytest.raises(CorruptShardError, match=f"chunk {bad}"):
        sort(tmp_path / "set", tmp_path / "sorted", "score", **options)
    kept = {path: path.stat().st_ino for path in (tmp_path / "sorted").glob("shard-*.fxs")}
    assert kept
    shard.write_bytes(sound)
    done = []
    sort(tmp_path / "set", tmp_path / "sorted", "score", **options, progress=lambda at, of: done.append(at))
    assert contents(tmp_path / "sorted") == contents(tmp_path / "whole")
    assert done[0] > 0
    assert {path: path.stat().st_ino for path in kept} == kept


def test_shards_of_another_sort_are_not_taken_for_its_own(ds, expected, tmp_path):
    sort(ds, tmp_path / "sorted", "score", True, shard_bytes=SHARD_BYTES)
    (tmp_path / "sorted" / "manifest.json").unlink()
    sort(ds, tmp_path / "sorted", "score", shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "sorted") == expected[False]


def test_a_finished_shard_that_was_damaged_is_written_again(ds, expected, tmp_path):
    sort(ds, tmp_path / "sorted", "score", shard_bytes=SHARD_BYTES)
    (tmp_path / "sorted" / "manifest.json").unlink()
    shard = tmp_path / "sorted" / "shard-000001.fxs"
    data = bytearray(shard.read_bytes())
    data[-100:] = bytes(100)  # its footer
    shard.write_bytes(data)
    sort(ds, tmp_path / "sorted", "score", shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "sorted") == expected[False]


def test_damaged_keys_are_not_sorted_by(ds, expected, tmp_path):
    options = {"memory_bytes": MEMORY_BYTES, "shard_bytes": SHARD_BYTES}
    folder = tmp_path / "sorted"
    manifest = sorted_manifest(Parts([ds]), SortKey(column="score", descending=False), SHARD_BYTES)
    with sorted_copy.SortedCopy(folder, manifest, SHARD_BYTES, 3000) as copy:
        memory = divide_memory(Parts([ds]), ds.columns, MEMORY_BYTES, shard_chunks=copy.shard_chunks)
        key = SortKey(column="score", descending=False)
        partitions = open_partitions(copy.work_folder, Parts([ds]), key, memory, identity=manifest.uuid)
    damaged = partitions[1].path
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CorruptShardError, match="keys-001"):
        sort(ds, folder, "score", **options)
    for path in (folder / ".sort").iterdir():
        path.unlink()
    sort(ds, folder, "score", **options)
    assert contents(folder) == expected[False]


def test_a_disk_without_room_is_told_before_anything_is_written(ds, tmp_path, monkeypatch):
    need = sort_disk_bytes(ds, "score", memory_bytes=MEMORY_BYTES, shard_bytes=SHARD_BYTES)
    usage = sorted_copy.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(sorted_copy.shutil, "disk_usage", lambda _path: usage._replace(free=need - 1))
    with pytest.raises(OSError, match="the disk has") as error:
        sort(ds, tmp_path / "sorted", "score", memory_bytes=MEMORY_BYTES, shard_bytes=SHARD_BYTES)
    assert error.value.errno == errno.ENOSPC
    assert contents(tmp_path / "sorted") == {}


def test_the_room_that_it_asks_for_is_enough_and_not_much_more(ds, tmp_path):
    sort(ds, tmp_path / "sorted", "score", shard_bytes=SHARD_BYTES)
    taken = sum(path.stat().st_size for path in (tmp_path / "sorted").glob("shard-*"))
    asked = sort_disk_bytes(ds, "score", shard_bytes=SHARD_BYTES)
    assert taken <= asked <= 1.4 * taken  # sections end at pages, which count for much in shards this small


@pytest.fixture
def _files_of_at_most_16_kib():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES, 1 << 30])  # the second writes one file of 90 kB of keys
def test_a_disk_that_fills_up_all_the_same(ds, expected, tmp_path, memory_bytes, request):
    before = contents(ds.path)
    request.getfixturevalue("_files_of_at_most_16_kib")
    with pytest.raises(OSError, match="cannot write: File too large") as error:
        sort(ds, tmp_path / "sorted", "score", memory_bytes=memory_bytes, shard_bytes=SHARD_BYTES)
    assert str(tmp_path / "sorted") in error.value.filename
    assert contents(ds.path) == before
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    sort(ds, tmp_path / "sorted", "score", memory_bytes=memory_bytes, shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "sorted") == expected[False]


def test_two_sorts_into_one_folder(ds, tmp_path):
    manifest = sorted_manifest(Parts([ds]), SortKey(column="score", descending=False), SHARD_BYTES)
    with (
        sorted_copy.SortedCopy(tmp_path / "sorted", manifest, SHARD_BYTES, 3000),
        pytest.raises(DatasetLockedError, match="sorted"),
    ):
        sort(ds, tmp_path / "sorted", "score", shard_bytes=SHARD_BYTES)


def test_too_little_memory_is_refused_with_what_would_do(ds, tmp_path):
    with pytest.raises(ValueError, match=r"`memory_bytes` is too little to sort 3000 chunks") as error:
        sort(ds, tmp_path / "sorted", "score", memory_bytes=1000, shard_bytes=SHARD_BYTES)
    enough = int(str(error.value).split(" would do")[0].split()[-1])
    sort(ds, tmp_path / "sorted", "score", memory_bytes=enough, shard_bytes=SHARD_BYTES)


MEASURE = """
import ctypes, gc, sys, threading, fluxcore.data
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, which the system would count whole
def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))
source, folder, limit, shard = sys.argv[1:]
fluxcore.data.sort(source, folder + "-first", "s", memory_bytes=int(limit), shard_bytes=int(shard))  # loads all code
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.0005):
        peak = max(peak, anonymous())
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # else the second sort may do with what the first has freed
before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
fluxcore.data.sort(source, folder, "s", memory_bytes=int(limit), shard_bytes=int(shard))
done.set()
watcher.join()
print(peak - before)
"""


def test_it_keeps_to_its_memory(tmp_path):
    count, tokens = 20_000, 1024  # 41 MB
    rng = np.random.default_rng(0)
    with ShardWriter(
        tmp_path / "set", chunk_tokens=tokens, vocab_size=99, sources=["a"], score_columns=["s"]
    ) as writer:
        for start in range(0, count, 4000):
            writer.append_batch(
                rng.integers(0, 99, (4000, tokens), dtype=np.uint16), sources="a", doc_ids=np.arange(4000),
                doc_offsets=np.full(4000, start), scores={"s": rng.random(4000)},
            )  # fmt: skip
    limit = 16 << 20  # so that a megabyte or two that the allocator keeps or takes again does not decide
    arguments = [str(tmp_path / "set"), str(tmp_path / "sorted"), str(limit), str(6 << 20)]
    ran = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(ran.stdout) <= limit
    assert Path(tmp_path / "sorted" / "manifest.json").exists()
