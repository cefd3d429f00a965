"""`verify` looks at what values mean: here all checksums fit, and the values are none that a writer lets through."""

import struct

import numpy as np
import pytest
from soak.data_set_files import CHUNKS, T, forge_manifest, reseal, reseal_sections, write_set

import fluxcore.data
from fluxcore import _core
from fluxcore.data import Loader, Order
from fluxcore.errors import CorruptShardError


@pytest.fixture
def folder(tmp_path):
    """40 chunks in two shards, sorted by the score `s`, with a mask, short chunks and a sidecar each."""
    write_set(tmp_path / "set")
    assert len(fluxcore.data.open(tmp_path / "set").manifest.shards) == 2
    return tmp_path / "set"


def section(data, name):
    """Offset of a section of a shard."""
    entries = [data[place : place + 24] for place in range(512, 512 + 24 * struct.unpack_from("<H", data, 14)[0], 24)]
    names = bytes(data[offset_of(entries, 1) :])
    for entry in entries:
        if entry[0] == {"tokens": 2, "mask": 5}.get(name, 4) and (entry[0] != 4 or name_of(names, entry) == name):
            return struct.unpack_from("<Q", entry, 8)[0]
    raise KeyError(name)


def offset_of(entries, kind):
    return next(struct.unpack_from("<Q", entry, 8)[0] for entry in entries if entry[0] == kind)


def name_of(names, entry):
    place = 0
    for _ in range(struct.unpack_from("<H", entry, 2)[0]):
        place += 1 + names[place]
    return names[place + 1 : place + 1 + names[place]].decode()


def forge(folder, shard, name, values, change=lambda listed: None):
    """Write `values` over the beginning of a section, and make every checksum and the manifest fit."""
    path = folder / f"shard-{shard:06d}.fxs"
    data = bytearray(path.read_bytes())
    at = section(data, name)
    data[at : at + values.nbytes] = values.tobytes()
    reseal_chunks(data)
    reseal_sections(data)
    root = reseal(data)
    path.write_bytes(data)

    def relist(document):
        listed = document["shards"][shard]
        listed["root"], listed["sidecars"] = root, []
        for each in document["shards"]:
            each["sidecars"] = []
            each["quantiles"] = {"s": each["quantiles"]["s"]}
        document["columns"] = {"s": document["columns"]["s"]}
        change(listed)

    manifest = folder / "manifest.json"
    manifest.write_bytes(forge_manifest(manifest.read_bytes(), relist))


def reseal_chunks(data):
    entries = [data[place : place + 24] for place in range(512, 512 + 24 * struct.unpack_from("<H", data, 14)[0], 24)]
    tokens, crcs, mask = (offset_of(entries, kind) for kind in (2, 3, 5))
    for chunk in range(struct.unpack_from("<Q", data, 72)[0]):
        payload = bytes(data[tokens + 2 * T * chunk :][: 2 * T]) + bytes(data[mask + T // 8 * chunk :][: T // 8])
        struct.pack_into("<I", data, crcs + 4 * chunk, _core.crc32c(payload))


def quantiles(listed, *values):
    listed["quantiles"]["s"] = [float(value) for value in values]


FORGED = {
    "NaN": (0, "s", np.float32([np.nan]), "column `s` holds a value that is not finite"),
    "infinite": (1, "s", np.float32([np.inf]), "column `s` holds a value that is not finite"),
    "quantiles": (0, "s", np.float32([-1]), "the quantiles of column `s` are not those that the manifest lists"),
    "no source": (0, "source", np.uint16([2]), "source 2 is not in the table of 2"),
    "no length": (0, "valid_len", np.uint32([0]), "chunk 0, document 0 is corrupt: its valid length"),
    "too long": (1, "valid_len", np.uint32([T + 1]), "is corrupt: its valid length is out of range"),
    "next token": (0, "next_token", np.uint32([1000]), "its next token is not below the vocabulary size"),
    "token": (0, "tokens", np.uint16([1000]), "chunk 0, document 0 is corrupt: token 0 is not below"),
    "padding": (0, "valid_len", np.uint32([1]), "chunk 0, document 0 is corrupt: its padding is not zero"),
    "twice": (1, "original_index", np.uint64([3]), "original index 3 occurs twice in the data set"),
}  # fmt: skip


@pytest.mark.parametrize(("shard", "name", "values", "message"), FORGED.values(), ids=FORGED)
def test_values_that_cannot_be(folder, shard, name, values, message):
    if name == "valid_len" and values[0] == 1:
        forge(folder, 0, "tokens", np.full(T, 7, np.uint16))
    forge(folder, shard, name, values)
    with pytest.raises(CorruptShardError, match=message) as error:
        fluxcore.data.open(folder).verify()
    assert error.value.shard == f"shard-{shard:06d}.fxs" or message.startswith("original index")


def test_orders_that_the_manifest_declares_and_nobody_kept(folder):
    ds = fluxcore.data.open(folder)
    first = ds.manifest.shards[0].chunks
    scores = ds.column("s")
    last = float(scores[-1])
    falling = scores[:first][::-1].copy()
    cases = {
        "is not in the order that the manifest declares": (0, falling, {}),
        "its first and last key are not those that the manifest lists": (0, scores[:first].copy(), {"first_key": -9.0}),
        "it does not go on in the order of the shard before it": (
            0, (scores[:first] + np.float32(last)).copy(), {"first_key": None, "last_key": None}
        ),
    }  # fmt: skip
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for message, (shard, values, keys) in cases.items():

        def change(listed, values=values, keys=keys):
            ordered = np.sort(values)
            quantiles(listed, *np.quantile(ordered, [0, 0.25, 0.5, 0.75, 1], method="lower"))
            for key in keys:
                listed[key] = float(values[0 if key == "first_key" else -1]) if keys[key] is None else keys[key]

        forge(folder, shard, "s", values, change)
        with pytest.raises(CorruptShardError, match=message):
            fluxcore.data.open(folder).verify()
        for name, data in before.items():
            (folder / name).write_bytes(data)
    assert fluxcore.data.open(folder).verify().chunks == CHUNKS


@pytest.mark.parametrize("threads", [0, 2])
def test_a_length_out_of_range_is_no_read_beyond_the_chunk(folder, threads):
    """What only `verify` would look at must not harm who did not run it."""
    forge(folder, 0, "valid_len", np.uint32([0xFFFFFFFF]))
    ds = fluxcore.data.open(folder)
    loader = Loader(ds, Order.sorted("original_index"), global_batch_size=4, threads=threads, out="int64")
    with pytest.raises(CorruptShardError, match="chunk 0, document 0 is corrupt: its valid length is out of range"):
        next(iter(loader))
