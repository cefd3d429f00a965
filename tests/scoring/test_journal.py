"""The journal keeps whole blocks, whatever the death of its writer left of the last."""

import os
import resource
import signal

import numpy as np
import pytest

from fluxcore.errors import DatasetLockedError
from fluxcore.scoring.journal import Journal

HEADER = {"scorer": "a"}
BLOCKS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 1), 7, dtype=np.float32)]


def open_journal(path, header=HEADER):
    return Journal(path, header, columns=2, chunks=5)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal"
    with open_journal(path) as journal:
        for block in BLOCKS:
            journal.append(block)
    return path


def test_it_goes_on_where_it_was(path):
    with open_journal(path) as journal:
        assert journal.done == 4
        np.testing.assert_array_equal(journal.scores[:, :4], np.concatenate(BLOCKS, axis=1))
        journal.append(np.full((2, 1), 9, dtype=np.float32))
    with open_journal(path) as journal:
        assert journal.done == 5
        assert journal.scores[0, 4] == 9
        journal.remove()
    assert not path.exists()


def test_cut_at_every_byte_it_keeps_the_whole_blocks(path):
    data = path.read_bytes()
    ends = [len(data) - (20 + 8) - (20 + 24), len(data) - (20 + 8), len(data)]  # header, then each block
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        with open_journal(path) as journal:
            assert journal.done == (4 if size >= ends[2] else 3 if size >= ends[1] else 0), size
            journal.append(np.zeros((2, 1), dtype=np.float32))
            done = journal.done
        with open_journal(path) as journal:
            assert journal.done == done, size


def test_a_flipped_bit_ends_what_is_kept(path):
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 28, len(data)):
        flipped = data.copy()
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with open_journal(path) as journal:
            assert journal.done == 3, place


def test_another_scorer_begins_anew(path):
    with open_journal(path, {"scorer": "b"}) as journal:
        assert journal.done == 0
        assert np.isnan(journal.scores).all()


def test_one_process_at_a_time(path):
    message = r"another process is computing the scores in .*\n\nWait for it"
    with open_journal(path), pytest.raises(DatasetLockedError, match=message):
        open_journal(path)
    with open_journal(path) as journal:
        assert journal.done == 4


def test_a_full_disk_is_told_with_the_file_and_what_was_whole_goes_on(tmp_path):
    """No file may grow past 4 KiB: writing fails with EFBIG, as a full disk does with ENOSPC."""
    block = np.ones((2, 100), dtype=np.float32)
    path = tmp_path / "journal"

    def fill():
        with Journal(path, HEADER, 2, 1000) as journal:
            for _ in range(10):
                journal.append(block)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.filename == str(path)
    with Journal(path, HEADER, 2, 1000) as journal:
        assert journal.done == 400
        journal.append(block)
    with Journal(path, HEADER, 2, 1000) as journal:
        assert journal.done == 500


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_file_is_no_journal(tmp_path, put):
    put(tmp_path / "journal")
    with pytest.raises(OSError, match=r"journal'$"):
        open_journal(tmp_path / "journal")
