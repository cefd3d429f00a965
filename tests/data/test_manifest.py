import json
from uuid import UUID

import numpy as np
import pytest
from support.shards import write

import fluxcore.data as data
from fluxcore import _core
from fluxcore.data import manifest
from fluxcore.errors import CorruptShardError


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set", n=20, uuid=UUID(int=7))
    data.open(tmp_path / "set").add_column("x", np.arange(20))
    return tmp_path / "set"


def forge(folder, change):
    """Change the manifest's JSON and make its CRC fit."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes().partition(b"\n")[0])
    change(document)
    line = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    path.write_bytes(line + b"\ncrc32c:%08x\n" % _core.crc32c(line))


def test_it_reads_what_was_written(folder):
    found = manifest.read(folder)
    assert manifest.decode(manifest.encode(found), folder) == found
    assert found.hash == manifest.decode(manifest.encode(found), folder).hash
    assert (found.generation, found.uuid, found.chunks, found.sources) == (2, f"{7:032x}", 20, ("web", "code"))


def test_every_flipped_bit_and_every_cut_is_seen(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            with pytest.raises(CorruptShardError, match="is corrupt"):
                manifest.decode(bytes(damaged), path)
        with pytest.raises(CorruptShardError, match="is corrupt"):
            manifest.decode(whole[:at], path)
    with pytest.raises(CorruptShardError, match="two manifests"):
        manifest.decode(whole + whole, path)


def test_a_damaged_manifest_is_named(folder):
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(CorruptShardError, match=r"manifest\.json` is corrupt") as error:
        data.open(folder)
    assert error.value.shard == "manifest.json"


def _set(*path, to):
    def change(document):
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("generation", to=0),
        _set("generation", to=True),
        _set("generation", to=1.0),
        _set("uuid", to="xyz"),
        _set("uuid", to=None),
        _set("chunk_tokens", to=0),
        _set("chunk_tokens", to=2**25),
        _set("dtype", to="float32"),
        _set("dtype", to="uint8"),
        _set("vocab_size", to=65_537),
        _set("sources", to=[]),
        _set("sources", to=["a", "a"]),
        _set("sources", to=["a\x00"]),
        _set("sources", to="web"),
        _set("unknown", to=1),
        _set("columns", "a b", to={"dtype": "float32", "definition": ""}),
        _set("columns", "s", "dtype", to="float64"),
        _set("columns", "doc_id", to={"dtype": "uint64", "definition": ""}),
        _set("sorted_by", to={"column": "nothing", "descending": False}),
        _set("sorted_by", to={"column": "s", "descending": False}),
        _set("parent", to="ab"),
        _set("shards", to={}),
        _set("shards", 0, to=7),
        _set("shards", 0, "name", to="../shard-000000.fxs"),
        _set("shards", 0, "name", to="/etc/passwd"),
        _set("shards", 0, "name", to=".."),
        _set("shards", 0, "name", to="a" * 129),
        _set("shards", 0, "bytes", to=2**41),
        _set("shards", 0, "bytes", to=-1),
        _set("shards", 0, "chunks", to=0),
        _set("shards", 0, "chunks", to=21),
        _set("shards", 0, "base", to=1),
        _set("shards", 0, "root", to="0" * 32),
        _set("shards", 0, "first_key", to=1.0),
        _set("shards", 0, "quantiles", "t", to=[0.0] * 5),
        _set("shards", 0, "quantiles", "s", to=[0.0] * 4),
        _set("shards", 0, "sidecars", 0, "columns", to=["y"]),
        _set("shards", 0, "sidecars", 0, "columns", to=["x", "x"]),
        _set("shards", 0, "sidecars", 0, "name", to="shard-000000.fxs"),
        lambda document: document.pop("parent"),
        lambda document: document["shards"].append(document["shards"][0]),
    ],
)
def test_hostile_manifests_are_refused(folder, change):
    forge(folder, change)
    with pytest.raises(CorruptShardError, match="is corrupt"):
        data.open(folder)


@pytest.mark.parametrize(
    "line",
    [
        *(b"[]", b"null", b"7", b"[" * 100_000, b'{"a":1,"a":2}', b'{"format": "fluxcore-dataset"}', b"\xff"),
        *(b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":%s}' % (b"9" * 5000), b'{"a":"\\ud800"}'),
        *(b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    ],
    ids=lambda line: repr(line[:12]),
)
def test_other_json_is_refused(folder, line):
    (folder / "manifest.json").write_bytes(line + b"\ncrc32c:%08x\n" % _core.crc32c(line))
    with pytest.raises(CorruptShardError, match="is corrupt"):
        data.open(folder)


def test_a_newer_version_says_so(folder):
    forge(folder, _set("version", to=2))
    with pytest.raises(ValueError, match=r"has version 2, this fluxcore reads 1\n\nUpgrade"):
        data.open(folder)


def test_a_sidecar_that_the_manifest_misdescribes(folder):
    forge(folder, _set("shards", 0, "sidecars", 0, "bytes", to=5))
    with pytest.raises(CorruptShardError, match="its size is not the one that the manifest lists"):
        data.open(folder).column("x")


def test_a_column_that_is_nowhere(folder):
    forge(folder, _set("columns", "y", to={"dtype": "float32", "definition": ""}))
    with pytest.raises(CorruptShardError, match="lists column `y` as float32, here it is missing"):
        data.open(folder).column("y")


def test_verify_compares_the_manifest_with_the_values(folder):
    forge(folder, _set("shards", 0, "quantiles", "x", to=[1.0] * 5))
    with pytest.raises(CorruptShardError, match="quantiles of column `x`"):
        data.open(folder).verify()
