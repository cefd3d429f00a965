"""What is left when writing is cut off: by a signal, a full disk, or a folder that cannot be written to."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from support.shards import VOCAB, T, write

import fluxcore.data as data

WRITE_FOR_EVER = """
import sys, numpy as np, fluxcore.data as data
with data.ShardWriter(sys.argv[1], chunk_tokens=1024, vocab_size=50257, sources=["a"], shard_bytes=1 << 20) as w:
    tokens = np.ones((64, 1024), np.uint16)
    while True:
        w.append_batch(tokens, sources="a", doc_ids=np.arange(64), doc_offsets=np.zeros(64, int))
"""
ADD_COLUMNS_FOR_EVER = """
import sys, itertools, numpy as np, fluxcore.data as data
ds = data.open(sys.argv[1])
for i in itertools.count():
    ds.add_column(f"c{len(ds.columns)}", np.full(len(ds), 1.5))
"""


def kill_while(script, folder, *, when):
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)])
    try:
        deadline = time.monotonic() + 120
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_killed_writer_publishes_nothing_and_the_next_one_clears_up(tmp_path):
    folder = tmp_path / "set"
    kill_while(WRITE_FOR_EVER, folder, when=lambda: len(list(folder.glob("shard-*.fxs"))) >= 2)
    assert list(folder.glob(".shard-*.tmp")) or list(folder.glob("shard-*.fxs"))
    with pytest.raises(FileNotFoundError, match="interrupted"):
        data.open(folder)
    tokens = write(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".fluxcore.lock", "manifest.json", "shard-000000.fxs"]
    assert np.array_equal(data.open(folder)[0], tokens[0])


def test_killing_add_column_leaves_a_sound_set(tmp_path):
    folder = tmp_path / "set"
    tokens = write(folder, n=300, shard_bytes=60_000)
    kill_while(ADD_COLUMNS_FOR_EVER, folder, when=lambda: "c10" in data.open(folder).columns)
    ds = data.open(folder)
    ds.verify()
    assert np.array_equal(ds[5], tokens[5])
    ds.add_column("after", np.zeros(300))
    listed = {s.name for shard in ds.manifest.shards for s in (shard, *shard.sidecars)}
    assert {path.name for path in folder.iterdir()} == {*listed, ".fluxcore.lock", "manifest.json"}


@pytest.mark.parametrize("name", ["manifest.json", "shard-000000.fxs", "shard-000000.g2-0.fxc"])
def test_the_next_writer_clears_up_what_was_being_written(tmp_path, name):
    folder = tmp_path / "set"
    write(folder)
    (folder / f".{name}.1791.tmp").write_bytes(b"begun")
    (folder / f"mine.{name}.tmp").write_bytes(b"not of this package")
    data.open(folder).add_column("after", np.zeros(len(data.open(folder))))
    left = {path.name for path in folder.iterdir() if path.name.endswith(".tmp")}
    assert left == {f"mine.{name}.tmp"}


@pytest.fixture
def _full_disk():
    """No file may grow past 64 KiB: writing fails with EFBIG, as a full disk does with ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_while_writing(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(OSError, match="cannot write: File too large") as error:
        write(folder, n=10_000)
    assert error.value.filename == str(folder / "shard-000000.fxs")
    assert [path.name for path in folder.iterdir()] == [".fluxcore.lock"]


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_while_writing_without_with(tmp_path):
    writer = data.ShardWriter(tmp_path / "set", chunk_tokens=T, vocab_size=VOCAB, sources=["a"])
    with pytest.raises(OSError, match="cannot write"):
        writer.append_batch(
            np.ones((40_000, T), int), sources="a", doc_ids=np.arange(40_000), doc_offsets=np.zeros(40_000, int)
        )
    writer.close()  # must not publish what is there
    assert [path.name for path in (tmp_path / "set").iterdir()] == [".fluxcore.lock"]


def test_a_full_disk_while_adding_a_column(tmp_path, request):
    write(tmp_path / "set", n=20_000, shard_bytes=1 << 30)
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    request.getfixturevalue("_full_disk")
    ds = data.open(tmp_path / "set")
    with pytest.raises(OSError, match="cannot write"):
        ds.add_column("c", np.zeros(20_000))
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before
    assert "c" not in ds.columns


def test_a_folder_that_cannot_be_written_to():
    # /proc takes no files, not even from root, whom permissions do not bind.
    with pytest.raises(OSError, match=r"/proc") as error:
        data.ShardWriter("/proc/fluxcore", chunk_tokens=T, vocab_size=VOCAB, sources=["a"])
    assert error.value.filename is not None


@pytest.fixture
def public_folder():
    """A folder that every user can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_folder_is_read_and_not_written(public_folder):
    folder = public_folder / "set"
    tokens = write(folder)
    folder.chmod(0o555)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)  # permissions do not bind root
            ds = data.open(folder)
            sound = np.array_equal(ds[0], tokens[0])
            try:
                ds.add_column("c", np.zeros(10))
            except PermissionError as error:
                os._exit(0 if sound and str(folder) in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder.chmod(0o755)


def test_a_writer_takes_over_full_shards_and_leaves_out_their_chunks(tmp_path):
    folder, options = tmp_path / "set", {"shard_bytes": 60_000, "uuid": UUID(int=9)}
    tokens = write(tmp_path / "whole", n=700, **options)
    with pytest.raises(KeyboardInterrupt):
        write(folder, n=700, then=KeyboardInterrupt, resume=True, **options)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.fxs")}
    assert kept
    assert np.array_equal(write(folder, n=700, resume=True, **options), tokens)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    names = {path.name for path in folder.iterdir()} - {".fluxcore.lock"}
    assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_a_writer_that_goes_on_must_be_given_as_many_chunks(tmp_path):
    options = {"shard_bytes": 60_000, "uuid": UUID(int=9), "resume": True}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", n=700, then=KeyboardInterrupt, **options)
    with pytest.raises(ValueError, match="chunks are missing that the interrupted writer was given"):
        write(tmp_path / "set", n=20, **options)


def test_another_error_keeps_nothing(tmp_path):
    options = {"shard_bytes": 60_000, "uuid": UUID(int=9), "resume": True}
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "set", n=700, then=ZeroDivisionError, **options)
    assert [path.name for path in (tmp_path / "set").iterdir()] == [".fluxcore.lock"]
