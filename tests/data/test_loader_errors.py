"""Errors while reading: each comes out at its batch, and none is lost."""

import gc
import threading

import numpy as np
import psutil
import pytest
from support.data_sets import flip_bit, write_data_set

import fluxcore.data
from fluxcore.data import Loader, Order
from fluxcore.errors import CorruptShardError

CORRUPT = 27


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set"
    ds = write_data_set(path)
    shard = sorted(path.glob("*.fxs"))[1]
    flip_bit(shard, ds[CORRUPT].tobytes())
    return fluxcore.data.open(path), shard.name


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_corrupt_chunk_raises_at_its_batch_and_names_itself(damaged, threads):
    ds, shard = damaged
    loader = Loader(ds, Order.sorted("original_index"), global_batch_size=5, threads=threads)
    delivered = []
    for _ in range(2):  # trying again neither skips the batch nor ends the loop
        with pytest.raises(CorruptShardError, match=shard) as error:
            delivered.extend(chunk for batch in loader for chunk in batch.meta.chunk_ids.tolist())
        assert str(CORRUPT) in str(error.value)
        assert loader.step == 5
    assert delivered == list(range(25))
    loader.skip(1)
    assert next(iter(loader)).meta.chunk_ids.tolist() == [30, 31, 32, 33, 34]


def test_a_corrupt_chunk_raises_only_on_the_rank_that_reads_it(damaged):
    ds, _ = damaged
    options = {"global_batch_size": 10, "world_size": 2}
    assert len(list(Loader(ds, Order.sorted("original_index"), rank=0, **options))) == 5
    with pytest.raises(CorruptShardError):
        list(Loader(ds, Order.sorted("original_index"), rank=1, **options))


def test_without_verification_the_bytes_come_as_they_are(damaged):
    ds, _ = damaged
    assert len(list(Loader(ds, Order.shuffled(), global_batch_size=10, verify=False))) == 5
    unverified = fluxcore.data.open(ds.path, verify="never")
    assert len(list(Loader(unverified, Order.shuffled(), global_batch_size=10))) == 5
    with pytest.raises(CorruptShardError):
        list(Loader(unverified, Order.shuffled(), global_batch_size=10, verify=True))


def test_a_dropped_loader_takes_its_threads_with_it(tmp_path):
    ds = write_data_set(tmp_path / "set")
    before = native_threads()
    for _ in range(20):
        loader = Loader(ds, Order.shuffled(), global_batch_size=4, threads=3, prefetch=6)
        next(iter(loader))
        assert native_threads() == before + 3
        del loader
    assert native_threads() == before


def native_threads():
    gc.collect()
    return psutil.Process().num_threads()


def test_no_thread_is_started_before_the_first_batch(tmp_path):
    ds = write_data_set(tmp_path / "set")
    before = native_threads()
    loader = Loader(ds, Order.shuffled(), global_batch_size=4, threads=3)
    assert native_threads() == before
    next(iter(loader))
    assert native_threads() == before + 3


@pytest.mark.parametrize("workers", [0, 2])
def test_two_threads_that_read_from_one_loader_are_told(tmp_path, workers):
    # A batch takes milliseconds, during which the other thread comes by.
    with fluxcore.data.ShardWriter(tmp_path / "set", chunk_tokens=1 << 18, vocab_size=100, sources=["a"]) as writer:
        for number in range(16):
            writer.append(np.full(1 << 18, number, np.uint16), source="a", doc_id=number, doc_offset=0)
    options = {"global_batch_size": 8, "total_steps": 10, "out": "int64", "prefetch": 1, "threads": workers}
    loader = Loader(fluxcore.data.open(tmp_path / "set"), Order.sorted("original_index"), **options)
    told = []

    def read():
        try:
            for batch in loader:
                assert (batch.tokens == batch.meta.chunk_ids[:, None]).all()
        except ValueError as error:
            told.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told
    assert all("another thread is reading from this loader" in message for message in told)
