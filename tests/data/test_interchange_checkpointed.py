"""A file of checkpoints against a plain array of bytes: whatever is written, it opens as it was at the last one."""

import os
import resource
import signal

import numpy as np
import pytest

from fluxcore.data.interchange.checkpointed import CheckpointedFile


def write(file, model, rng):
    """Write as HDF5 does: mostly at the end, and over what is there; the model alike."""
    place = len(model) if rng.random() < 0.5 else int(rng.integers(0, len(model) + 1))
    data = rng.bytes(int(rng.integers(1, 9000)))
    file.seek(place)
    assert file.write(data) == len(data)
    model[place : place + len(data)] = data


def read(file):
    file.seek(0, os.SEEK_END)
    held = bytearray(file.tell())
    file.seek(0)
    file.readinto(held)
    return held


@pytest.mark.parametrize("seed", range(5))
def test_what_was_written_is_read_and_what_was_not_kept_is_gone(tmp_path, seed):
    rng = np.random.default_rng(seed)
    model, kept, done = bytearray(), bytearray(), None
    for _ in range(12):
        with CheckpointedFile(tmp_path / "x") as file:
            assert file.done == done
            assert read(file) == kept == (tmp_path / "x").read_bytes()
            model = bytearray(kept)
            for step in range(20):
                write(file, model, rng)
                assert read(file) == model
                if rng.random() < 0.15:
                    done = step
                    file.checkpoint(done)
                    kept = bytearray(model)
                    assert (tmp_path / "x").read_bytes() == kept
    assert len(kept) > 3 * 4096


def test_a_smaller_size_is_kept(tmp_path):
    with CheckpointedFile(tmp_path / "x") as file:
        file.write(b"a" * 9000)
        file.checkpoint(1)
        file.truncate(5000)
        file.checkpoint(2)
    with CheckpointedFile(tmp_path / "x") as file:
        assert (file.done, read(file)) == (2, b"a" * 5000)
        file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_without_a_sound_journal_it_begins_anew(tmp_path, damage):
    with CheckpointedFile(tmp_path / "x") as file:
        file.write(b"abc" * 3000)
        file.checkpoint(3)
        file.seek(5)
        file.write(b"other")
        file.checkpoint(4)
    journal = tmp_path / ".x.journal"
    journal.write_bytes(journal.read_bytes()[:-1] if damage is None else damage)
    with CheckpointedFile(tmp_path / "x") as file:
        assert (file.done, read(file)) == (None, b"")


def test_a_write_that_fails_is_told_by_check_and_changes_nothing(tmp_path):
    with CheckpointedFile(tmp_path / "x") as file:
        file.write(b"a" * 6000)
        file.checkpoint(1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (7000, limits[1]))
        try:
            assert file.write(b"b" * 5000) == 5000
            file.seek(10)
            file.write(b"c" * 10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert read(file) == b"a" * 10 + b"c" * 10 + b"a" * 5980 + b"b" * 5000  # HDF5 may still read it
        for act in (file.check, file.finish, lambda: file.checkpoint(2)):
            with pytest.raises(OSError, match="File too large") as error:
                act()
            assert error.value.filename == str(tmp_path / "x")
    with CheckpointedFile(tmp_path / "x") as file:
        assert (file.done, read(file)) == (1, b"a" * 6000)
