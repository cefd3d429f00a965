"""Chunks that are not what was written, and what stands for them."""

import json
import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from support.data_sets import flip_bit, write_data_set

import fluxcore.data
from fluxcore.data import Loader, Order, bad_chunks
from fluxcore.errors import CorruptShardError

BAD = (7, 8, 27, 49)
INSTEAD = {7: 9, 8: 9, 27: 28, 49: 0}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("data") / "sound")


def damage(sound, path, chunks):
    shutil.copytree(sound.path, path)
    starts = [shard.base for shard in sound.manifest.shards]
    for chunk in chunks:
        shard = sound.manifest.shards[np.searchsorted(starts, chunk, side="right") - 1]
        flip_bit(path / shard.name, sound[chunk].tobytes())
    return fluxcore.data.open(path)


@pytest.fixture(scope="module")
def damaged(sound, tmp_path_factory):
    return damage(sound, tmp_path_factory.mktemp("data") / "damaged", BAD)


def make(ds, order=None, **options):
    options = {
        "global_batch_size": 8,
        "epochs": 2,
        "on_bad_chunk": "skip",
        "out": "int64",
        "columns": ["score"],
    } | options
    return Loader(ds, order or Order.shuffled(), **options)


def ids_of(loader, count=None):
    return [batch.meta.chunk_ids.tolist() for _, batch in zip(range(count or len(loader)), loader, strict=False)]


def replaced(batches, instead=INSTEAD):
    return [[instead.get(chunk, chunk) for chunk in batch] for batch in batches]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("order", [Order.shuffled(), Order.sorted("original_index"), Order.paced("score")], ids=str)
def test_the_next_sound_chunk_takes_the_rows(sound, damaged, threads, order, caplog):
    loader = make(damaged, order, threads=threads)
    with caplog.at_level(logging.WARNING):
        batches = list(loader)
    assert [batch.meta.chunk_ids.tolist() for batch in batches] == replaced(ids_of(make(sound, order)))
    assert loader.bad_chunks == INSTEAD
    for batch in batches:
        rows = batch.meta.chunk_ids.numpy()
        tokens, targets = sound.gather(rows)
        assert np.array_equal(batch.tokens, tokens)
        assert np.array_equal(batch.targets, targets)
        assert np.array_equal(batch.meta.doc_id, sound.column("doc_id")[rows])
        assert np.array_equal(batch.meta.valid_len, sound.column("valid_len")[rows])
        assert np.array_equal(batch.meta.scores["score"], sound.column("score")[rows])
    assert len(caplog.records) == 4  # each once, over two epochs
    (message,) = [
        record.message for record in caplog.records if "chunk 28 takes the rows of chunk 27" in record.message
    ]
    assert "shard-000001.fxs" in message
    assert "document 5" in message


def test_batches_and_substitutes_are_the_same_on_any_world_size(sound, damaged):
    whole = [batch.tokens for batch in make(damaged)]
    for world_size in (2, 4):
        shares = [list(make(damaged, rank=rank, world_size=world_size)) for rank in range(world_size)]
        for step, tokens in enumerate(whole):
            assert torch.equal(torch.cat([share[step].tokens for share in shares]), tokens)


def test_resume_at_every_step_keeps_the_substitutes_even_when_the_chunks_are_restored(sound, damaged):
    whole = ids_of(make(damaged))
    for step in range(len(whole)):
        one = make(damaged)
        ids_of(one, step + 1)
        state = json.loads(json.dumps(one.state_dict()))
        for ds in (damaged, sound):
            two = make(ds, on_bad_chunk="skip")
            two.load_state_dict(state)
            assert two.bad_chunks == one.bad_chunks
            rest = ids_of(two)
            if ds is damaged or len(one.bad_chunks) == len(BAD):
                assert rest == whole[step + 1 :]
    assert pickle.loads(pickle.dumps(one)).bad_chunks == INSTEAD
    assert "bad_chunks" not in make(damaged).state_dict()


def test_what_the_state_holds_stands_whatever_the_policy(damaged):
    one = make(damaged)
    whole = ids_of(one)
    one.rewind()
    two = make(damaged, on_bad_chunk="raise")
    with pytest.raises(CorruptShardError):
        list(two)
    two.load_state_dict(one.state_dict())
    assert ids_of(two) == whole


def test_explain_says_what_is_delivered(damaged):
    loader = make(damaged)
    whole = ids_of(loader)
    assert [loader.explain(step).chunk_ids.tolist() for step in range(len(loader))] == whole


def test_substitutes_come_from_the_selection_and_the_source(sound, damaged):
    subset = np.array([0, 3, 7, 8, 20, 27, 49])
    loader = make(damaged, subset=subset, global_batch_size=7)
    assert set(np.ravel(ids_of(loader))) == {0, 3, 20}
    assert loader.bad_chunks == {7: 20, 8: 20, 27: 0, 49: 0}
    mixed = make(damaged, epochs=None, total_steps=30, mix={"web": 1, "code": 1})
    source = sound.column("source")
    seen = ids_of(mixed)
    assert all((source[batch] == 0).sum() == 4 for batch in seen)
    assert mixed.bad_chunks.keys() == set(BAD)
    assert all(source[bad] == source[other] for bad, other in mixed.bad_chunks.items())


def test_a_function_chooses(sound, damaged):
    errors = []

    def choose(error):
        errors.append((error.shard, error.chunk, error.document))
        return {7: 30, 27: 8}.get(error.chunk)  # 8 is bad too

    order = Order.sorted("original_index")
    loader = make(damaged, order, on_bad_chunk=choose, epochs=1, global_batch_size=50)
    instead = {7: 30, 8: 9, 27: 9, 49: 0}
    whole = replaced(ids_of(make(sound, order, epochs=1, global_batch_size=50)), instead)
    assert ids_of(loader) == whole
    assert loader.bad_chunks == instead
    assert sorted(errors) == [
        ("shard-000000.fxs", 7, 1),
        ("shard-000000.fxs", 8, 1),
        ("shard-000001.fxs", 27, 5),
        ("shard-000002.fxs", 49, 9),
    ]
    resumed = make(damaged, order, epochs=1, global_batch_size=50)
    loader.rewind()
    resumed.load_state_dict(loader.state_dict())
    assert ids_of(resumed) == whole


@pytest.mark.parametrize("chosen", [-1, 50, 27])
def test_a_function_that_chooses_no_chunk_is_told(damaged, chosen):
    loader = make(damaged, subset=np.arange(20, 40), on_bad_chunk=lambda _: chosen)
    with pytest.raises(ValueError, match=rf"`on_bad_chunk` must return None or another chunk .*, got {chosen} for 27"):
        list(loader)
    assert loader.bad_chunks == {}


def test_a_function_may_raise(damaged):
    def stop(error):
        raise RuntimeError(f"no {error.chunk}") from error

    loader = make(damaged, Order.sorted("original_index"), on_bad_chunk=stop)
    with pytest.raises(RuntimeError, match="no 7"):
        list(loader)
    assert loader.step == 0


def test_too_many_bad_chunks_or_no_sound_one_raise(sound, damaged, tmp_path, monkeypatch):
    loader = make(damaged, subset=np.array([7, 8]), global_batch_size=2)
    with pytest.raises(CorruptShardError) as error:
        list(loader)
    assert "no chunk that could stand for it is sound" in error.value.__notes__
    monkeypatch.setattr(bad_chunks, "MAX_BAD_CHUNKS", 3)
    loader = make(damaged)
    with pytest.raises(CorruptShardError) as error:
        list(loader)
    assert "3 chunks were replaced before: restore the data set" in error.value.__notes__
    assert len(loader.bad_chunks) == 3


def test_a_fault_of_a_whole_section_raises(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "set")
    shard = sound.manifest.shards[1]
    flip_bit(tmp_path / "set" / shard.name, sound.column("doc_id")[shard.base : shard.base + shard.chunks].tobytes())
    batches = list(make(fluxcore.data.open(tmp_path / "set")))
    assert [batch.meta.chunk_ids.tolist() for batch in batches] == ids_of(make(sound))
    assert all(torch.equal(batch.tokens, whole.tokens) for batch, whole in zip(batches, make(sound), strict=True))
    with pytest.raises(CorruptShardError, match="doc_id"):
        [batch.meta.doc_id for batch in batches]


def test_a_fault_of_the_next_tokens_raises(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "set")
    shard = sound.manifest.shards[1]
    after = sound._core.column(1, "next_token")
    flip_bit(tmp_path / "set" / shard.name, after.tobytes())
    with pytest.raises(CorruptShardError, match="next_token"):
        list(make(fluxcore.data.open(tmp_path / "set")))


@pytest.mark.parametrize(
    "pairs",
    [5, [[1]], [[50, None]], [[1, 50]], [[1, 2], [2, 1]], [[True, None]], [[i, None] for i in range(50)]],
    ids=str,
)
def test_substitutes_in_the_state_that_cannot_be_are_refused(sound, pairs):
    loader = make(sound)
    state = loader.state_dict() | {"bad_chunks": pairs}
    with pytest.raises(ValueError, match="`state` must hold pairs of chunks, its 'bad_chunks' is"):
        loader.load_state_dict(state)
    assert loader.bad_chunks == {}


def test_another_word_is_refused(sound):
    with pytest.raises(ValueError, match="`on_bad_chunk` must be raise, skip or a function, got 'ignore'"):
        make(sound, on_bad_chunk="ignore")
