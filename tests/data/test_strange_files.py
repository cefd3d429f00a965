"""Anything in place of a file of a data set: it is refused by name, is not followed, waited for or read without end."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from support.shards import write

import fluxcore.data as data
from fluxcore.data import ShardWriter
from fluxcore.data.regular_file import open_regular
from fluxcore.errors import CorruptShardError

MANIFEST, SHARD, SIDECAR, LOCK = "manifest.json", "shard-000000.fxs", "shard-000000.g2-0.fxc", ".fluxcore.lock"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set")
    data.open(tmp_path / "set").add_column("x", np.arange(10))
    return tmp_path / "set"


def bind_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an absolute one may be too long for a socket


STRANGE = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file": lambda path: path.symlink_to("elsewhere"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a socket": bind_socket,
}


@pytest.mark.parametrize("put", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("name", [MANIFEST, SHARD, SIDECAR])
def test_reading(folder, name, put):
    (folder / name).rename(folder / "elsewhere")
    put(folder / name)
    with pytest.raises(OSError, match=rf"{name}'") as error:
        data.open(folder).column("x")
    assert error.value.filename == str(folder / name)


@pytest.mark.parametrize("put", STRANGE.values(), ids=STRANGE)
def test_writing(folder, put, tmp_path):
    (folder / LOCK).unlink()
    (tmp_path / "new").mkdir()
    for path in (folder, tmp_path / "new"):
        put(path / LOCK)
    ds = data.open(folder)
    ds.verify()
    writers = {
        folder: lambda: ds.add_column("y", np.arange(10)),
        tmp_path / "new": lambda: ShardWriter(tmp_path / "new", vocab_size=9, sources=["a"]),
    }
    for path, make in writers.items():
        with pytest.raises(OSError, match=r"\.fluxcore\.lock'") as error:
            make()
        assert error.value.filename == str(path / LOCK)
        assert not list(path.glob("*.g3-*"))


def test_a_device_itself():
    with pytest.raises(OSError, match="not a regular file: '/dev/zero'"):
        open_regular(Path("/dev/zero"), os.O_RDONLY)


def test_a_manifest_larger_than_may_be(folder):
    os.truncate(folder / MANIFEST, (256 << 20) + 1)
    with pytest.raises(CorruptShardError, match="it has 268435457 bytes, at most 268435456 are allowed"):
        data.open(folder)


def test_files_of_one_set_in_place_of_each_other(tmp_path):
    for name in ("one", "other"):
        write(tmp_path / name, n=300, shard_bytes=60_000)
        data.open(tmp_path / name).add_column("x", np.arange(300))
    names = [SHARD, "shard-000001.fxs", SIDECAR, "shard-000001.g2-0.fxc"]
    for name in names:
        kept = (tmp_path / "one" / name).read_bytes()
        for place in (*(tmp_path / "one" / other for other in names if other != name), tmp_path / "other" / name):
            shutil.copy(place, tmp_path / "one" / name)
            with pytest.raises(CorruptShardError, match="is not the one that the manifest lists") as error:
                data.open(tmp_path / "one").column("x")
            assert error.value.shard == name
        (tmp_path / "one" / name).write_bytes(kept)
    assert data.open(tmp_path / "one").verify().chunks == 300


def test_a_hard_link_is_the_file(folder):
    os.link(folder / SHARD, folder.parent / "second name")
    (folder / SHARD).unlink()
    os.link(folder.parent / "second name", folder / SHARD)
    assert data.open(folder).verify().chunks == 10
