"""Imports and exports that are killed anywhere: the next run goes on, to the bytes of a run without a break."""

import os
import resource
import shutil
import signal
import sys

import numpy as np
import pytest
from support.data_sets import write_data_set
from support.full_sets import same, write_full
from support.killing import contents, killed_at, killed_everywhere
from support.token_files import write_nanogpt

import fluxcore.data
from fluxcore.data import convert, export
from fluxcore.data.interchange import arrow_chunks, blocks, hdf5, hdf5_export, pieces

FORMATS = ["modded-nanogpt", "hdf5", "datasets"]


@pytest.fixture
def _small_parts(monkeypatch):
    """Pieces of 3 chunks, files and checkpoints of 8: of 16 tokens, uint16 in shards and int32 in HDF5."""
    monkeypatch.setattr(pieces, "BLOCK_TOKENS", 16 * 3)
    monkeypatch.setattr(arrow_chunks, "_FILE_BYTES", 16 * 2 * 8)
    monkeypatch.setattr(hdf5_export, "_CHECKPOINT_BYTES", 16 * 4 * 8)


@pytest.fixture
def ds(tmp_path):
    return write_data_set(tmp_path / "set")


# Places come in a rhythm, which the stride must not share; HDF5 alone writes hundreds of times.
@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize(("kind", "stride"), [("modded-nanogpt", 5), ("hdf5", 23), ("datasets", 11)])
def test_an_export_that_is_killed_anywhere(ds, tmp_path, kind, stride):
    options = {"format": kind, "file_tokens": 100}
    export(ds, tmp_path / "whole", **options)
    expected = contents(tmp_path / "whole")
    count = 0
    for number in killed_everywhere(lambda tick: export(ds, tmp_path / "out", progress=tick, **options), stride=stride):
        if (tmp_path / "out").exists():  # killed in the very last step, after it was published
            assert contents(tmp_path / "out") == expected, number
        else:
            export(ds, tmp_path / "out", **options)
            assert contents(tmp_path / "out") == expected, number
        shutil.rmtree(tmp_path / "out")
        count += 1
    assert count > 4
    assert contents(tmp_path / "out") == expected  # the last one, which was not killed
    assert not (tmp_path / ".out.tmp").exists()


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_is_killed_again_and_again_moves_on(ds, tmp_path, kind):
    options = {"format": kind, "file_tokens": 100}
    export(ds, tmp_path / "whole", **options)
    firsts = []

    def attempt(_):
        seen = []

        def progress(at):
            seen.append(at.done)
            if len(seen) == 1:
                (tmp_path / "first").write_text(str(at.done))
            if len(seen) == 5 and at.done < len(ds):  # enough for one file or checkpoint, and not for two
                os.kill(os.getpid(), signal.SIGKILL)

        export(ds, tmp_path / "out", progress=progress, **options)

    while killed_at(sys.maxsize, attempt):
        firsts.append(int((tmp_path / "first").read_text()))
        assert len(firsts) < 20
    assert firsts[0] == 3
    assert firsts == sorted(set(firsts))
    assert len(firsts) > 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_to_a_full_disk_names_it_and_goes_on_when_there_is_room(ds, tmp_path, kind):
    export(ds, tmp_path / "whole", format=kind, file_tokens=100)
    seen = []

    def fill(at):
        seen.append(at.done)
        if at.done > 30:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="File too large") as error:
            export(ds, tmp_path / "out", format=kind, file_tokens=100, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(tmp_path / ".out.tmp") in error.value.filename
    assert not (tmp_path / "out").exists()
    again = []
    export(ds, tmp_path / "out", format=kind, file_tokens=100, progress=lambda at: again.append(at.done))
    assert again[0] > 20
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_hdf5_reads_a_file_of_several_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_export, "_CHECKPOINT_BYTES", 6 * 4 * 7)
    full = write_full(tmp_path / "full")
    export(full, tmp_path / "out", format="hdf5")
    convert(tmp_path / "out", tmp_path / "back", format="hdf5")
    same(full, fluxcore.data.open(tmp_path / "back"))


def test_an_import_that_is_killed_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 700)
    path = write_nanogpt(tmp_path / "x.bin", np.arange(5000) % 90)
    options = {"format": "nanogpt", "vocab_size": 100, "chunk_tokens": 4, "shard_bytes": 60_000, "boundary": 7}
    convert(path, tmp_path / "whole", **options)
    check_kills(tmp_path, lambda tick: convert(path, tmp_path / "set", progress=tick, **options))


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("kind", ["hdf5", "datasets"])
def test_an_import_of_an_export_that_is_killed_anywhere(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(hdf5, "BLOCK_TOKENS", 16 * 9)
    export(write_data_set(tmp_path / "first"), tmp_path / "in", format=kind)
    options = {"format": kind, "shard_bytes": 12 * 4096 + 256 + 20 * (16 * 2 + 38)}
    convert(tmp_path / "in", tmp_path / "whole", **options)
    check_kills(tmp_path, lambda tick: convert(tmp_path / "in", tmp_path / "set", progress=tick, **options))


def check_kills(folder, action):
    expected = contents(folder / "whole")
    shards = fluxcore.data.open(folder / "whole").manifest.shards
    filled = {shard.name for shard in shards if shard.chunks == shards[0].chunks}
    assert len(filled) > 1
    taken_over, count = 0, 0
    for number in killed_everywhere(action, stride=3):
        full = {path: path.stat().st_ino for path in (folder / "set").glob("shard-*") if path.name in filled}
        if not (folder / "set" / "manifest.json").exists():
            action(lambda *_: None)
        assert contents(folder / "set") == expected, number
        assert {path: path.stat().st_ino for path in full} == full
        shutil.rmtree(folder / "set")
        taken_over += bool(full)
        count += 1
    assert count > taken_over > 0
