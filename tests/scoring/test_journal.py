"""The journal keeps whole blocks, whatever the death of its writer left of the last."""

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
