import struct

import numpy as np
import pytest
from soak.data_set_files import forge_manifest, reseal
from support.shards import flip, write

import fluxcore.data as data
from fluxcore.data.lock import WriterLock
from fluxcore.errors import CorruptShardError, DatasetLockedError


@pytest.fixture
def ds(tmp_path):
    write(tmp_path / "set", n=300, shard_bytes=60_000)
    return data.open(tmp_path / "set")


def test_an_added_column_is_read_by_all(ds):
    shards = {path.name: path.read_bytes() for path in ds.path.glob("*.fxs")}
    values = np.random.default_rng(0).normal(size=300)
    ds.add_column("gpt2.entropy_mean", values, definition="nats")
    for seen in (ds, data.open(ds.path)):
        assert seen.columns[-2:] == ("gpt2.entropy_mean", "s")
        assert np.array_equal(seen.column("gpt2.entropy_mean"), values.astype(np.float32))
        assert seen.manifest.generation == 2
        assert seen.manifest.columns["gpt2.entropy_mean"] == data.ColumnInfo(dtype="float32", definition="nats")
        assert seen.manifest.shards[0].quantiles["gpt2.entropy_mean"][0] == np.float32(
            values[: seen.manifest.shards[0].chunks].min()
        )
        assert seen.verify().sidecars == len(seen.manifest.shards) > 1
    assert {path.name: path.read_bytes() for path in ds.path.glob("*.fxs")} == shards


def test_many_columns_in_one_publication(ds):
    ds.add_columns({f"c{i}": np.full(300, i, np.uint16) for i in range(130)}, {"c0": "zero"})
    assert ds.manifest.generation == 2
    assert ds.column("c129").dtype == np.uint16
    assert ds.column("c129")[7] == 129
    assert ds.manifest.columns["c0"].definition == "zero"
    ds.verify()
    with pytest.raises(ValueError, match="at most 256 columns"):
        ds.add_columns({f"d{i}": np.zeros(300) for i in range(130)})


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("s", np.zeros(300), ValueError, "column `s` is there already"),
        ("doc_id", np.zeros(300), ValueError, "is there already"),
        ("a b", np.zeros(300), ValueError, "cannot name a column"),
        ("../x", np.zeros(299), ValueError, r"must have shape \(300,\).*got \(299,\)"),
        ("x", [np.nan] * 300, ValueError, "must be finite float32 values, got nan at position 0"),
        ("x", np.full(300, np.inf), ValueError, "must be finite"),
        ("x", np.full(300, "a"), TypeError, "must be numbers"),
        ("x", np.zeros(299, np.uint8), ValueError, "must have shape"),
    ],
)
def test_what_cannot_be_added(ds, name, values, error, message):
    before = sorted(path.name for path in ds.path.iterdir())
    with pytest.raises(error, match=message):
        ds.add_column(name, values)
    assert sorted(path.name for path in ds.path.iterdir()) == before
    assert data.open(ds.path).manifest == ds.manifest


def test_a_damaged_sidecar(ds):
    ds.add_column("x", np.arange(300))
    path = ds.path / ds.manifest.shards[1].sidecars[0].name
    flip(path, 4096)
    with pytest.raises(CorruptShardError, match="CRC of column `x`") as error:
        data.open(ds.path).column("x")
    assert error.value.shard == path.name
    flip(path, 4096)
    flip(path, 60)
    with pytest.raises(CorruptShardError, match="CRC of the superblock"):
        data.open(ds.path).verify()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        data.open(ds.path).column("x")


def test_a_sidecar_of_another_shard(ds):
    ds.add_column("x", np.arange(300))
    first, second = (ds.path / ds.manifest.shards[i].sidecars[0].name for i in (0, 1))
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptShardError, match="is not the one that the manifest lists"):
        data.open(ds.path).column("x")


def test_two_handles_add_one_after_the_other(ds):
    other = data.open(ds.path)
    ds.add_column("x", np.zeros(300))
    other.add_column("y", np.ones(300))
    assert other.columns[-2:] == ("x", "y")
    with pytest.raises(ValueError, match="column `y` is there already"):
        ds.add_column("y", np.ones(300))
    with WriterLock(ds.path), pytest.raises(DatasetLockedError, match="is being written to by process"):
        ds.add_column("z", np.ones(300))


@pytest.mark.parametrize(("at", "refused"), [(16, False), (24, True)], ids=["compatible", "read-only compatible"])
def test_a_set_of_a_newer_version_is_added_to_where_that_allows_it(ds, at, refused):
    name = ds.manifest.shards[1].name
    shard = bytearray((ds.path / name).read_bytes())
    struct.pack_into("<Q", shard, at, 1 << 40)
    root = reseal(shard)
    (ds.path / name).write_bytes(shard)
    manifest = (ds.path / "manifest.json").read_bytes()
    forged = forge_manifest(manifest, lambda document: document["shards"][1].update(root=root))
    (ds.path / "manifest.json").write_bytes(forged)
    newer = data.open(ds.path)
    newer.verify()
    if not refused:
        newer.add_column("x", np.zeros(300))
        return
    with pytest.raises(ValueError, match=rf"{name}` has features .* \(flags {1 << 40}\)\n\nUpgrade fluxcore"):
        newer.add_column("x", np.zeros(300))
    assert not list(ds.path.glob("*.fxc"))


def test_verify_tells_its_progress(ds):
    seen = []
    ds.verify(progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == len(ds.manifest.shards)
    assert seen[-1] == (300, 300)
