"""Writers and the processes around them: forks, interrupts, and locks whose holder is gone."""

import json
import os
import signal

import numpy as np
import pytest
from support.shards import VOCAB, T

import fluxcore.data as data
from fluxcore.data import ShardWriter, writer
from fluxcore.data.lock import LOCK_NAME, WriterLock
from fluxcore.errors import DatasetLockedError


def begin(path, **options):
    """A writer that has one full shard behind it and another in work."""
    made = ShardWriter(path, chunk_tokens=T, vocab_size=VOCAB, sources=["a"], shard_bytes=60_000, **options)
    add(made, 600)
    assert list(path.glob("*.fxs"))
    assert list(path.glob(".shard-*.tmp"))
    return made


def add(made, count):
    made.append_batch(
        np.ones((count, T), np.uint16), sources="a", doc_ids=np.arange(count), doc_offsets=np.zeros(count, int)
    )


def in_fork(call):
    """Whether `call` is true in a child, which leaves without unwinding."""
    child = os.fork()
    if child == 0:
        fine = False
        try:
            fine = call()
        finally:
            os._exit(0 if fine else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refuses(call):
    try:
        call()
    except ValueError as error:
        return "this is its fork" in str(error)
    return False


def leaves_by_an_error(made):
    try:
        with made:
            raise ZeroDivisionError
    except ZeroDivisionError:
        return True


FORKED = {
    "writes on": lambda made: refuses(lambda: add(made, 3)),
    "closes it": lambda made: refuses(made.close),
    "fails inside it": leaves_by_an_error,
}


@pytest.mark.parametrize("call", FORKED.values(), ids=FORKED)
def test_a_fork_does_the_writer_no_harm(tmp_path, call):
    made = begin(tmp_path / "set")
    assert in_fork(lambda: call(made))
    with pytest.raises(DatasetLockedError):
        WriterLock(tmp_path / "set")
    add(made, 100)
    made.close()
    assert data.open(tmp_path / "set").verify().chunks == 700


def test_a_fork_that_lives_on_does_not_keep_the_folder_locked(tmp_path):
    made = begin(tmp_path / "set")
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        made.close()
        data.open(tmp_path / "set").add_column("x", np.zeros(600))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_was_published_stays_whatever_comes_then(tmp_path, monkeypatch):
    def publish_and_be_interrupted(folder, manifest):
        published(folder, manifest)
        raise KeyboardInterrupt

    published = writer.publish
    made = begin(tmp_path / "set")
    monkeypatch.setattr(writer, "publish", publish_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.close()
    assert data.open(tmp_path / "set").verify().chunks == 600


@pytest.mark.parametrize("left", [{"pid": 1, "host": "gone"}, {"pid": "x"}, [], "nonsense"], ids=str)
def test_a_lock_that_was_left_behind_keeps_nobody_out(tmp_path, left):
    begin(tmp_path / "set").close()
    (tmp_path / "set" / LOCK_NAME).write_text(json.dumps(left))
    data.open(tmp_path / "set").add_column("x", np.zeros(600))
    assert json.loads((tmp_path / "set" / LOCK_NAME).read_text())["pid"] == os.getpid()
