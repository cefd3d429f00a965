"""A shard that is cut, altered or taken away while it is open ends in an error that names it, never in a signal."""

import os

import numpy as np
import pytest
from support.data_sets import write_data_set
from torch.utils.data import DataLoader

import fluxcore.data
from fluxcore.data import Filter, Loader, Order
from fluxcore.data.column_parts import take_columns
from fluxcore.errors import CorruptShardError
from fluxcore.integrations.torch_data import LoaderDataset

PAGE = 4096
CHUNKS = 2000
PER_PAGE = PAGE // 32


@pytest.fixture
def ds(tmp_path):
    """2000 chunks of 32 bytes in one shard, mapped: its tokens take 16 pages."""
    write_data_set(tmp_path / "set", CHUNKS, chunks_per_shard=CHUNKS + 100)
    ds = fluxcore.data.open(tmp_path / "set")
    assert len(ds.manifest.shards) == 1
    ds.gather([0, 1])
    ds.column("doc_id")
    return ds


def shard_of(ds):
    return ds.path / ds.manifest.shards[0].name


def cut(ds, pages):
    """Leave the first page and so many of tokens."""
    os.truncate(shard_of(ds), PAGE * (1 + pages))


@pytest.mark.parametrize("verify", ["always", "never"])
def test_reading_a_shard_that_was_cut_meanwhile(ds, verify):
    other = fluxcore.data.open(ds.path, verify=verify)
    other.gather([0, 1], targets=verify == "always")
    cut(ds, 8)
    for read in (lambda: other.gather([9 * PER_PAGE]), lambda: other.gather(range(CHUNKS))):
        with pytest.raises(CorruptShardError, match="cannot be read: the file was cut") as error:
            read()
        assert error.value.shard == shard_of(ds).name


def test_the_chunk_that_is_gone_is_named(ds):
    ds.gather(range(CHUNKS))  # every section was checked before
    cut(ds, 8)
    chunk = 8 * PER_PAGE + 5
    for read in (lambda: ds[chunk], lambda: ds.gather([chunk])):
        with pytest.raises(CorruptShardError, match=rf"chunk {chunk} is corrupt: it cannot be read") as error:
            read()
        assert (error.value.shard, error.value.chunk) == (shard_of(ds).name, chunk)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_loader_tells_it_at_the_batch(ds, threads):
    loader = Loader(ds, Order.shuffled(), global_batch_size=8, threads=threads)
    batches = iter(loader)
    next(batches)
    cut(ds, 2)
    with pytest.raises(CorruptShardError, match="cannot be read: the file was cut"):
        list(batches)


def test_a_worker_process_tells_it_too(ds):
    """It takes SIGBUS for itself when it begins, after this process has read."""
    loader = Loader(ds, Order.shuffled(), global_batch_size=8)
    batches = iter(DataLoader(LoaderDataset(loader), batch_size=None, num_workers=1))
    next(batches)
    cut(ds, 2)
    with pytest.raises(CorruptShardError, match="cannot be read: the file was cut"):
        list(batches)


def test_verify_tells_it_too(ds):
    cut(ds, 4)
    with pytest.raises(CorruptShardError, match="cannot be read: the file was cut"):
        ds.verify()


def test_a_section_that_is_first_read_when_it_is_gone(ds):
    cut(ds, 16)
    with pytest.raises(CorruptShardError, match="cannot be read: the file was cut"):
        ds.column("score")


ALL = np.arange(CHUNKS, dtype=np.uint64)
COLUMN_READS = {
    "a column": lambda ds: ds.column("score"),
    "a column that was added": lambda ds: ds.column("added"),
    "some rows of columns": lambda ds: take_columns(ds, ["score", "doc_id"], ALL),
    "an order": lambda ds: Order.sorted("score").compile(ds),
    "a filter": lambda ds: Loader(ds, Order.shuffled(), global_batch_size=8, where=Filter("score", low=0)),
    "a mixture": lambda ds: Loader(ds, Order.shuffled(), global_batch_size=8, mix={"web": 1, "code": 1}),
    "what is known of rows": lambda ds: ds._core.describe(ALL),
}


@pytest.mark.parametrize("read", COLUMN_READS.values(), ids=COLUMN_READS)
def test_columns_that_were_read_before_the_cut(ds, read):
    """They were checked then, and are not checked again."""
    ds.add_column("added", np.arange(CHUNKS))
    read(ds)
    for path in ds.path.glob("shard-*"):
        os.truncate(path, PAGE + 500)
    with pytest.raises(CorruptShardError, match=r"cut (after|short)") as error:
        read(ds)
    assert error.value.shard.startswith("shard-000000.")


def test_a_column_in_hand_and_the_scores_of_a_batch_outlast_the_file(ds):
    expected = ds.column("score").tolist()
    column = ds.column("score")
    meta = next(iter(Loader(ds, Order.sorted("original_index"), global_batch_size=8, columns=["score"]))).meta
    cut(ds, 0)
    assert column.tolist() == expected
    assert meta.scores["score"].tolist() == expected[:8]


def test_the_same_process_reads_on_elsewhere(ds, tmp_path):
    """The signal is not left blocked, and the next one is answered as well."""
    other = write_data_set(tmp_path / "other", 50)
    ds.gather(range(CHUNKS))
    cut(ds, 1)
    for chunk in (500, 900, 501):
        with pytest.raises(CorruptShardError, match=f"chunk {chunk}"):
            ds[chunk]
        assert other[3].shape == (16,)


def test_a_shard_that_is_taken_away_meanwhile_is_read_on(ds):
    """The map holds it."""
    before = ds[1500].tolist()
    shard_of(ds).unlink()
    assert ds[1500].tolist() == before
    with pytest.raises(FileNotFoundError):
        fluxcore.data.open(ds.path)


def test_a_shard_that_is_altered_meanwhile(ds):
    with shard_of(ds).open("r+b") as file:
        file.seek(PAGE + 32 * 700)
        file.write(b"\xff" * 4)
    with pytest.raises(CorruptShardError, match="chunk 700, document 140 is corrupt: the CRC"):
        ds[700]
