"""What no argument can be: the error names the argument and what came, and nothing hangs or is taken for something."""

import json
import math

import numpy as np
import pytest
from support.mixtures import mixture_loader

import fluxcore.data
from fluxcore.data import Autocurriculum, Difficulty, Filter, Loader, Order, ShardWriter


def make(ds, order=None, **options):
    return Loader(ds, order or Order.shuffled(), **({"global_batch_size": 8} | options))


def ids_of(loader, count=3):
    return [batch.meta.chunk_ids.tolist() for _, batch in zip(range(count), loader, strict=False)]


@pytest.mark.parametrize("value", ["8", 8.0, 8.5, math.nan, True, [8], np.array([8])], ids=str)
@pytest.mark.parametrize("name", ["global_batch_size", "world_size", "rank", "epochs", "total_steps", "seed"])
def test_sizes_are_integers(ds, name, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be an integer, got .*\({type(value).__name__}\)"):
        make(ds, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_batch_size", 1 << 31),
        ("world_size", 1 << 31),
        ("epochs", 1 << 62),
        ("epochs", 1 << 70),
        ("total_steps", 1 << 60),
        ("total_steps", 1 << 63),
    ],
)
def test_sizes_that_no_run_has(ds, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be <= \d+, got {value}"):
        make(ds, **{name: value}, drop_last=False)


def test_the_largest_sizes_are_runs(ds):
    for options in ({"epochs": ((1 << 63) - 1) // 50}, {"total_steps": ((1 << 63) - 1) // 8}):
        loader = make(ds, **options)
        expected = ids_of(make(ds))
        assert ids_of(loader) == expected
        loader.skip(len(loader) - 4)
        assert [len(ids) for ids in ids_of(loader, 9)] == [8]
        assert json.loads(json.dumps(loader.state_dict()))["step"] == len(loader)


def test_integers_of_numpy_are_integers(ds):
    options = {"global_batch_size": np.int32(8), "total_steps": np.uint8(4)}
    assert ids_of(make(ds, **options)) == ids_of(make(ds))
    assert Order.jittered("score", np.int64(7)) == Order.jittered("score", 7)
    assert type(Order.interleaved("score", np.int64(7)).strides) is int
    assert json.dumps(Filter("score", np.float32(0.5), np.int16(3)).to_dict()) == json.dumps(
        Filter("score", 0.5, 3).to_dict()
    )


WRONG_ORDERS = {
    "window": (lambda: Order.jittered("score", 1 << 63), "`window` must be a whole number of places, .* at most"),
    "window True": (lambda: Order.jittered("score", True), "`window` must be a whole number of places, .* got True"),
    "levels": (lambda: Order.paced("score", "discrete", levels=1 << 40), "`levels` must be .*, 65536 at most"),
    "descending": (lambda: Order.sorted("score", "yes"), "`descending` must be True or False, got 'yes'"),
    "shuffle": (lambda: Order.bucketed("score", shuffle=1), "`shuffle` must be True or False, got 1"),
    "column": (lambda: Order.sorted(3), "`column` of a sorted order must be the name of a column to order by, got 3"),
    "edges": (lambda: Order.bucketed("score", ["x"]), "`edges` must be a number, got 'x'"),
    "start": (lambda: Order.paced("score", start=None), "`start` must be a number, got None"),
    "full_at": (lambda: Order.paced("score", full_at=10**400), "`full_at` must be a number that a float can hold"),
    "at": (lambda: Order.shuffled().then(Order.shuffled(), "x"), "`at` must be a number, got 'x'"),
    "then": (lambda: Order.shuffled().then("sorted", 0.5), "`other` must be an Order, got 'sorted'"),
    "plain text": (lambda: Order.from_dict("sorted"), "an order must have `kind` and no unknown keys, got 'sorted'"),
    "plain kind": (lambda: Order.from_dict({"kind": ["sorted"]}), r"`kind` must be one of .*, got \['sorted'\]"),
    "plain parts": (lambda: Order.from_dict({"kind": "chain", "parts": [1]}), "an order must have lists as"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_ORDERS.values(), ids=WRONG_ORDERS)
def test_orders(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


WRONG_FILTERS = {
    "text": (lambda: Filter("score", "a"), "`low` must be a number, got 'a'"),
    "True": (lambda: Filter("score", None, True), "`high` must be a number, got True"),
    "infinite": (lambda: Filter("score", -math.inf, 1), "finite and with low <= high, got -inf and 1\n\nNone is no"),
    "plain key": (lambda: Filter.from_dict({"column": "s", "above": 1}), "a filter must have `column`, and"),
    "plain text": (lambda: Filter.from_dict("s"), "a filter must have `column`, and `low` or `high`, got 's'"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_FILTERS.values(), ids=WRONG_FILTERS)
def test_filters(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("where", [None, 3, "score", {"score": 1}], ids=str)
def test_where(ds, where):
    with pytest.raises(TypeError, match="`where` must be a Filter or several, got"):
        make(ds, where=where)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter("doc_id", low=-1), range(50)),
        (Filter("doc_id", high=1 << 70), range(50)),
        (Filter("doc_id", 1.5, 2.5), range(10, 15)),
        (Filter("source", high=0), [i for i in range(50) if i // 5 % 2 == 0]),
        (Filter("original_index", 3, 3), [3]),
        (Filter("score", high=1e300), range(50)),
        (Filter("score", low=-1e300), range(50)),
    ],
    ids=str,
)
def test_bounds_beyond_what_a_column_holds(ds, where, expected):
    assert np.flatnonzero(where.accepts(ds)).tolist() == list(expected)


def test_document_numbers_are_compared_exactly(tmp_path):
    numbers = [(1 << 63) + i for i in range(4)]  # alike as floats
    with ShardWriter(tmp_path / "set", chunk_tokens=1, vocab_size=2, sources=["a"]) as writer:
        for number in numbers:
            writer.append([1], source="a", doc_id=number)
    ds = fluxcore.data.open(tmp_path / "set")
    assert Filter("doc_id", low=numbers[2]).accepts(ds).tolist() == [False, False, True, True]


def test_mixtures(ds):
    for mix in (5, "web", ["web"]):
        with pytest.raises(TypeError, match=r"`mix` must map names of sources to weights, got .*\n\nFor example"):
            make(ds, mix=mix)
        with pytest.raises(TypeError, match="`weights` must map names of sources to weights, got"):
            mixture_loader(ds).set_weights(mix)
    for weight in ("a", None, True, 1j):
        with pytest.raises(TypeError, match="`mix` must be a number, got"):
            make(ds, mix={"web": weight})
    with pytest.raises(ValueError, match="`mix` must be a number that a float can hold"):
        make(ds, mix={"web": 10**400})


@pytest.mark.parametrize("index", [1.0, "1", None, slice(0, 2), [1]], ids=str)
def test_chunk_numbers(ds, index):
    for read in (ds.__getitem__, ds.token_mask):
        with pytest.raises(TypeError, match=r"`index` must be the number of a chunk, got .*\n\nSeveral"):
            read(index)
    with pytest.raises(IndexError, match="chunk 50 is out of range"):
        ds.token_mask(50)
    with pytest.raises(TypeError, match="`out` must be the name of a type such as 'int64', got None"):
        ds.gather([0], out=None)


@pytest.mark.parametrize("state", [None, 5, "{}", [1]], ids=str)
def test_what_is_no_mapping_is_no_state(ds, state):
    with pytest.raises(TypeError, match="`state` must be what `state_dict` returned, got"):
        make(ds).load_state_dict(state)
    with pytest.raises(TypeError, match="`state` must be what `state_dict` returned, got"):
        Autocurriculum(["a", "b"]).load_state_dict(state)


STRANGE = (None, True, "x", [], {}, -1, 1 << 70, math.nan, np.zeros(3), np.array(5))


def test_every_field_of_a_state_may_be_anything_else(ds):
    """It is refused and nothing is changed, or it is of no consequence."""
    loader = make(ds, Order.sorted("score"), where=Filter("score", low=-5), subset=np.arange(40), seed=3)
    list(zip(range(2), loader, strict=False))
    state = loader.state_dict()
    for field in state.keys() - {"epoch"}:
        for value in STRANGE:
            if value is None and state[field] is None:
                continue
            with pytest.raises(ValueError, match=r"`state` must be (of|within) this run"):
                loader.load_state_dict(state | {field: value})
            assert loader.state_dict() == state


@pytest.mark.parametrize(
    "mixture",
    [
        {"log": [[math.inf, [1, 2]]], "cursors": [0, 0]},
        {"log": [[0, [32768, 32768]]], "cursors": [math.inf, 0]},
        {"log": [[0, [32768, 32768]]], "cursors": [1 << 70, -(1 << 70)]},
        {"log": [[0, [32768, 32768]], [1 << 70, [32768, 32768]]], "cursors": [0, 0]},
        {"log": [[0, [65537, -1]]], "cursors": [0, 0]},
        {"log": [[0, ["32768", 32768.0]]], "cursors": [0, 0]},
        {"log": [[0, [32768] * 10_000]], "cursors": [0, 0]},
    ],
    ids=lambda mixture: str(mixture)[:60],
)
def test_strange_mixtures_in_a_state(ds, mixture):
    loader = mixture_loader(ds)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="`state` must hold a mixture's log and cursors") as error:
        loader.load_state_dict(state | {"mixture": mixture})
    assert len(str(error.value)) < 500
    assert "incompatible" not in str(error.value)
    assert loader.state_dict() == state


CURRICULUM = {
    "NaN": {"weights": {"a": math.nan, "b": 1.0}},
    "negative": {"weights": {"a": -1.0, "b": 2.0}},
    "no distribution": {"weights": {"a": 1.0, "b": 1.0}},
    "text": {"velocity": {"a": "x", "b": 0.0}},
    "a source is missing": {"velocity": {"a": 0.0}},
    "infinite": {"last": {"a": math.inf, "b": 0.0}},
    "huge": {"last": {"a": 10**400, "b": 0.0}},
    "no updates": {"updates": -3},
}


@pytest.mark.parametrize("change", CURRICULUM.values(), ids=CURRICULUM)
def test_a_curriculum_keeps_to_itself_what_it_cannot_take(change):
    curriculum = Autocurriculum(["a", "b"])
    curriculum.update({"a": Difficulty(1, 0), "b": Difficulty(2, 0)})
    state = curriculum.state_dict()
    with pytest.raises(ValueError, match="`state"):
        curriculum.load_state_dict(state | change)
    with pytest.raises(ValueError, match="`state` must have the field"):
        curriculum.load_state_dict({name: value for name, value in state.items() if name not in change})
    assert curriculum.state_dict() == state
