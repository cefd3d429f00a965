"""Mixtures that cannot be, and states of other ones."""

import json

import numpy as np
import pytest
from support.mixtures import MIX, PERIOD, mixture_loader

from fluxcore.data import Loader, Order

BAD_MIXES = {
    "unknown": ({"web": 1, "books": 1}, r"`mix` must name sources of the data set \(web, code\), got 'books'"),
    "none": ({}, "at least one chunk, got none"),
    "all zero": ({"web": 0, "code": 0.0}, "`mix` must not all be 0"),
    "negative": ({"web": 1, "code": -0.1}, "`mix` must be numbers >= 0 and finite, got -0.1 for 'code'"),
    "NaN": ({"web": float("nan"), "code": 1}, "`mix` must be .* got nan for 'web'"),
    "infinite": ({"web": float("inf"), "code": 1}, "`mix` must be .* got inf for 'web'"),
}


@pytest.mark.parametrize(("mix", "message"), BAD_MIXES.values(), ids=BAD_MIXES)
def test_bad_mixes_are_refused(ds, mix, message):
    with pytest.raises(ValueError, match=message):
        mixture_loader(ds, mix=mix)


BAD_WEIGHTS = {
    "unknown": ({"web": 1, "books": 1}, None, r"`weights` must name each source of the mixture once \(web, code\)"),
    "missing": ({"web": 1}, None, "got 'web'\n\nA weight of 0 leaves a source out"),
    "all zero": ({"web": 0, "code": 0}, None, "`weights` must not all be 0"),
    "NaN": ({"web": 1, "code": float("nan")}, None, "got nan for 'code'"),
    "past": (MIX, 3, r"`at_step` must be within \[4, 14\), the batches left, got 3"),
    "beyond": (MIX, 14, "`at_step` must be within"),
    "before the last change": (MIX, 5, "`at_step` must be >= 6, the last change so far, got 5"),
}


@pytest.mark.parametrize(("weights", "at_step", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused_and_change_nothing(ds, weights, at_step, message):
    loader = mixture_loader(ds)
    loader.skip(4)
    loader.set_weights({"web": 1, "code": 1}, at_step=6)
    state = loader.state_dict()
    with pytest.raises(ValueError, match=message):
        loader.set_weights(weights, at_step)
    assert loader.state_dict() == state


def test_weights_need_a_mixture_and_an_order_without_a_plan(ds):
    with pytest.raises(ValueError, match="`mix` must be given to the loader"):
        Loader(ds, Order.shuffled(), global_batch_size=8).set_weights(MIX)
    paced = Order.paced("score", start=0.5)
    with pytest.raises(ValueError, match=r"the weights of a paced order.* must stay"):
        mixture_loader(ds, paced).set_weights(MIX)
    with pytest.raises(
        ValueError, match="`mix` must be > 0 with an order planned over the whole run, got 0 for 'code'"
    ):
        mixture_loader(ds, paced, mix={"web": 1, "code": 0})
    with pytest.raises(ValueError, match=r"source 'code': `order` must show every chunk.*unseen"):
        mixture_loader(ds, paced, mix={"web": 9, "code": 1})


def test_a_source_without_chunks_takes_no_weight(ds):
    few = np.flatnonzero(ds.column("source") == 0)
    with pytest.raises(ValueError, match=r"`mix` must be 0 for 'code', which has no chunks here, got 0\.3"):
        mixture_loader(ds, subset=few)
    batches = list(mixture_loader(ds, subset=few, mix={"web": 1, "code": 0}))
    assert not any(batch.meta.source.any() for batch in batches)


@pytest.mark.parametrize(
    "change",
    [
        lambda mixture: mixture.pop("log"),
        lambda mixture: mixture["log"].clear(),
        lambda mixture: mixture["cursors"].pop(),
        lambda mixture: mixture["cursors"].__setitem__(0, 1),
        lambda mixture: mixture["log"][0][1].__setitem__(0, 1),
        lambda mixture: mixture["log"][0].__setitem__(0, 9),
        lambda mixture: mixture["log"].append([0, [0, PERIOD]]),
    ],
)
def test_a_mixture_in_the_state_that_cannot_be_is_refused(ds, change):
    loader = mixture_loader(ds)
    loader.skip(5)
    state = json.loads(json.dumps(loader.state_dict()))
    change(state["mixture"])
    with pytest.raises(ValueError, match="`state` must hold a mixture's log and cursors"):
        mixture_loader(ds).load_state_dict(state)


def test_the_state_of_another_mixture_is_refused(ds):
    with pytest.raises(ValueError, match=r"its 'mix' is .*\n\nGive the `mix` that the run was started with"):
        mixture_loader(ds, mix={"web": 1, "code": 1}).load_state_dict(mixture_loader(ds).state_dict())
    with pytest.raises(ValueError, match="its 'mix' is None"):
        mixture_loader(ds).load_state_dict(mixture_loader(ds, mix=None).state_dict())
