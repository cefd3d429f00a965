import gc
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
from support.shards import T, flip, write

import fluxcore.data as data
from fluxcore.errors import CorruptShardError

SHARD = "shard-000000.fxs"


def test_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set: `manifest\.json` is missing"):
        data.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no data set"):
        data.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"`verify` must be one of \['always', 'never'\], got 'maybe'"):
        data.open(tmp_path, verify="maybe")


@pytest.mark.parametrize("size", [0, 1, 4096, 5000])
def test_a_shard_cut_short(tmp_path, size):
    write(tmp_path / "set")
    os.truncate(tmp_path / "set" / SHARD, size)
    with pytest.raises(CorruptShardError, match="cut short") as error:
        data.open(tmp_path / "set")
    assert error.value.shard == SHARD


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set" / SHARD).unlink()
    with pytest.raises(FileNotFoundError) as error:
        data.open(tmp_path / "set")
    assert error.value.filename == str(tmp_path / "set" / SHARD)


def test_a_shard_of_another_set_is_refused(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    shutil.copy(tmp_path / "b" / SHARD, tmp_path / "a" / SHARD)
    with pytest.raises(CorruptShardError, match=r"data set \(UUID\) is not the one that the manifest lists"):
        data.open(tmp_path / "a")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set" / SHARD).rename(tmp_path / "elsewhere")
    (tmp_path / "set" / SHARD).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link is not followed"):
        data.open(tmp_path / "set")


def test_a_flipped_token_is_named_on_every_way_to_read_it(tmp_path):
    write(tmp_path / "set", n=10)
    flip(tmp_path / "set" / SHARD, 4096 + 2 * T * 7 + 5)
    ds = data.open(tmp_path / "set")
    for read in (lambda: ds[7], lambda: ds[-3], lambda: ds.gather([1, 7]), lambda: list(ds), ds.verify):
        with pytest.raises(CorruptShardError, match="chunk 7, document 7 is corrupt") as error:
            read()
        assert (error.value.shard, error.value.chunk, error.value.document) == (SHARD, 7, 7)
    assert ds.gather([6, 8])[0].shape == (2, T)
    assert data.open(tmp_path / "set", verify="never")[7].shape == (T,)


def test_a_flipped_bit_of_a_column_is_seen_at_first_touch(tmp_path):
    write(tmp_path / "set", n=10)
    path = tmp_path / "set" / SHARD
    scores = (np.arange(10) / 3).astype(np.float32).tobytes()
    flip(path, path.read_bytes().index(scores) + 8)
    ds = data.open(tmp_path / "set")
    assert ds.gather([0])[0].shape == (1, T)
    with pytest.raises(CorruptShardError, match="CRC of column `s`"):
        ds.column("s")
    with pytest.raises(CorruptShardError, match="CRC of column `s`"):
        ds.verify()


def test_wrong_indices(tmp_path):
    write(tmp_path / "set", n=10)
    ds = data.open(tmp_path / "set")
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"chunk {index} is out of range, the data set has 10 chunks"):
            ds[index]
        with pytest.raises(IndexError, match=r"`ids` must be within \[0, 10\)"):
            ds.gather([0, index])
    with pytest.raises(TypeError, match="`ids` must be integers"):
        ds.gather([0.5])
    with pytest.raises(ValueError, match="`ids` must have one dimension"):
        ds.gather([[1]])
    with pytest.raises(ValueError, match="`out` must be one of"):
        ds.gather([1], out="float32")
    with pytest.raises(KeyError, match="no column `t`; there are source, doc_id"):
        ds.column("t")


def test_views_are_read_only_and_outlive_the_data_set(tmp_path):
    tokens = write(tmp_path / "set")
    ds = data.open(tmp_path / "set")
    chunk, column = ds[3], ds.column("s")
    with pytest.raises(ValueError, match="read-only"):
        chunk[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1
    shutil.rmtree(tmp_path / "set")
    del ds
    gc.collect()
    assert np.array_equal(chunk, tokens[3])
    assert column[3] == 1.0


def test_pickling_reopens(tmp_path):
    tokens = write(tmp_path / "set")
    pickled = pickle.dumps(data.open(tmp_path / "set", verify="never"))
    ds = pickle.loads(pickled)
    assert np.array_equal(ds[2], tokens[2])
    shutil.rmtree(tmp_path / "set")
    write(tmp_path / "set")
    with pytest.raises(ValueError, match="was replaced after it was pickled"):
        pickle.loads(pickled)


def test_a_forked_child_reads_on(tmp_path):
    tokens = write(tmp_path / "set")
    ds = data.open(tmp_path / "set")
    assert np.array_equal(ds[0], tokens[0])
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(ds.gather(range(10))[0], tokens) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_share_a_data_set(tmp_path):
    tokens = write(tmp_path / "set", n=200, shard_bytes=60_000)
    ds = data.open(tmp_path / "set")
    right = []

    def read(seed):
        ids = np.random.default_rng(seed).permutation(200)
        right.append(np.array_equal(ds.gather(ids)[0], tokens[ids]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


def test_the_working_folder_may_change(tmp_path, monkeypatch):
    tokens = write(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    ds = data.open("set")
    monkeypatch.chdir("/")
    assert np.array_equal(ds[0], tokens[0])
