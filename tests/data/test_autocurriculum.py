"""The three rules, as properties that hold for any losses, and as what they do on simple ones."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data_sets import write_data_set
from support.mixtures import mixture_loader

from fluxcore.data import Autocurriculum, Difficulty

RULES = ["exponentiated_gradient", "additive", "learning_progress"]
losses = st.floats(allow_nan=False, allow_infinity=False)
difficulties = st.builds(Difficulty, losses, st.floats(min_value=0, allow_infinity=False))


@st.composite
def histories(draw):
    """Rule, its keys, and some measurements of some sources."""
    n = draw(st.integers(2, 6))
    keys = {
        "rule": draw(st.sampled_from(RULES)),
        "rate": draw(st.floats(1e-3, 1e6)),
        "floor": draw(st.floats(1e-6, 1 / n)),
        "momentum": draw(st.floats(0, 0.999)),
        "spread": draw(st.floats(0, 1e3)),
    }
    row = st.lists(difficulties, min_size=n, max_size=n)
    return keys, draw(st.lists(row, min_size=1, max_size=4)), draw(st.permutations(range(n)))


def run(keys, rows, names):
    curriculum = Autocurriculum(names, **keys)
    return [curriculum.update(dict(zip(names, row, strict=True))) for row in rows]


@given(histories())
def test_weights_are_always_a_distribution_above_the_floor(history):
    keys, rows, _ = history
    for weights in run(keys, rows, [f"source {i}" for i in range(len(rows[0]))]):
        assert all(weight >= keys["floor"] for weight in weights.values())
        assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-12)


@given(histories())
def test_to_permute_the_sources_permutes_the_weights_and_nothing_else(history):
    keys, rows, order = history
    names = [f"source {i}" for i in range(len(order))]
    plain = run(keys, rows, names)
    permuted = run(keys, [[row[i] for i in order] for row in rows], [names[i] for i in order])
    assert permuted == plain  # dicts: equal to the last bit, by name


@pytest.mark.parametrize("rule", RULES)
def test_equal_difficulty_leaves_the_weights_alone(rule):
    curriculum = Autocurriculum(["a", "b", "c"], rule=rule)
    for _ in range(5):
        weights = curriculum.update(dict.fromkeys("abc", Difficulty(2.0, 0.5)))
    assert weights == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_exponentiated_gradient_multiplies():
    curriculum = Autocurriculum(["a", "b"], rate=0.5, spread=2.0, weights={"a": 3, "b": 1})
    weights = curriculum.update({"a": Difficulty(1.0, 0.25), "b": Difficulty(2.0, 1.0)})
    # costs 2 and 4, so the logarithm of the weights' ratio moves by 0.5 x 2
    assert weights["b"] / weights["a"] == pytest.approx(math.e / 3)


def test_the_additive_rule_has_momentum():
    curriculum = Autocurriculum(["a", "b"], rule="additive", rate=0.01, momentum=0.5, spread=0.0)
    hard = {"a": Difficulty(1.0, 9.0), "b": Difficulty(3.0, 9.0)}  # g = -1, 1
    seen = [curriculum.update(hard)["b"] for _ in range(3)]
    assert seen == pytest.approx([0.51, 0.51 + 0.015, 0.525 + 0.0175])
    equal = dict.fromkeys("ab", Difficulty(1.0, 0.0))
    assert curriculum.update(equal)["b"] == pytest.approx(0.5425 + 0.00875)  # goes on by itself


def test_learning_progress_goes_where_the_loss_moves():
    curriculum = Autocurriculum(["easy", "hard", "learning"], rule="learning_progress", floor=0.05, momentum=0.0)
    losses = {"easy": 0.1, "hard": 9.0, "learning": 4.0}
    for loss in (4.0, 3.5, 3.0):
        losses["learning"] = loss
        weights = curriculum.update({name: Difficulty(value, 0.0) for name, value in losses.items()})
    assert weights == pytest.approx({"easy": 0.05, "hard": 0.05, "learning": 0.9})
    losses["easy"] = 0.6  # forgotten: the loss moves up as fast as the other moves down
    losses["learning"] = 2.5
    weights = curriculum.update({name: Difficulty(value, 0.0) for name, value in losses.items()})
    assert weights == pytest.approx({"easy": 0.475, "hard": 0.05, "learning": 0.475})


def test_a_source_that_became_hard_comes_back_from_the_floor():
    curriculum = Autocurriculum(["a", "b"], rate=1.0, floor=0.01)
    for _ in range(50):
        weights = curriculum.update({"a": Difficulty(5.0, 0), "b": Difficulty(0.0, 0)})
    assert weights["b"] == 0.01
    for _ in range(3):
        weights = curriculum.update({"a": Difficulty(0.0, 0), "b": Difficulty(5.0, 0)})
    assert weights["b"] > 0.9


@pytest.mark.parametrize("rule", RULES)
def test_a_state_goes_on_exactly(rule):
    def measured(step):
        return {name: Difficulty(math.sin(step * k) + 2, 0.1 * k) for k, name in enumerate("abc", 1)}

    one = Autocurriculum(["a", "b", "c"], rule=rule)
    for step in range(3):
        one.update(measured(step))
    two = Autocurriculum(["c", "a", "b"], rule=rule)
    two.load_state_dict(one.state_dict())
    for step in range(3, 6):
        assert two.update(measured(step)) == one.update(measured(step))
    assert two.updates == 6


def test_weights_feed_a_loader(tmp_path):
    loader = mixture_loader(write_data_set(tmp_path))
    curriculum = Autocurriculum(["web", "code"], rate=10.0, floor=0.25)
    batches = iter(loader)
    next(batches)
    loader.set_weights(curriculum.update({"web": Difficulty(0.0, 0.0), "code": Difficulty(5.0, 0.0)}))
    sources = [next(batches).meta.source.tolist() for _ in range(4)]
    code = loader.ds.sources.index("code")
    assert [row.count(code) for row in sources] == [6, 6, 6, 6]  # of 8 rows, by weight 0.75


AB = {"a": Difficulty(1.0, 0.0), "b": Difficulty(1.0, 0.0)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Autocurriculum(["a"]), "`names` must be of two sources at least, got"),
        (lambda: Autocurriculum(["a", "a"]), "`names` must differ"),
        (lambda: Autocurriculum(["a", "b"], rule="greedy"), "`rule` must be one of exponentiated_gradient, additive"),
        (lambda: Autocurriculum(["a", "b"], floor=0.6), "`floor` must be > 0 and at most 1 / 2 sources = 0.5, got 0.6"),
        (lambda: Autocurriculum(["a", "b"], floor=0), "`floor` must be > 0"),
        (lambda: Autocurriculum(["a", "b"], rate=float("nan")), "`rate` must be finite and > 0, got nan"),
        (lambda: Autocurriculum(["a", "b"], momentum=1.0), r"`momentum` must be within \[0, 1\), got 1.0"),
        (lambda: Autocurriculum(["a", "b"], spread=-1), "`spread` must be finite and >= 0"),
        (lambda: Autocurriculum(["a", "b"], weights={"a": 1}), "`weights` must name each source once"),
        (lambda: Autocurriculum(["a", "b"], weights={"a": 1, "b": 0}), "`weights` must be finite and > 0"),
        (lambda: Autocurriculum(["a", "b"]).update({"a": AB["a"]}), "`difficulty` must name each source once"),
        (
            lambda: Autocurriculum(["a", "b"]).update(AB | {"b": Difficulty(float("nan"), 0.0)}),
            "got nan and 0.0 for 'b'",
        ),
        (lambda: Autocurriculum(["a", "b"]).update(AB | {"b": Difficulty(1.0, -1.0)}), "a finite variance >= 0"),
        (
            lambda: Autocurriculum(["a", "b"]).load_state_dict(Autocurriculum(["a", "c"]).state_dict()),
            "`state` must name each source once",
        ),
        (
            lambda: Autocurriculum(["a", "b"]).load_state_dict(
                Autocurriculum(["a", "b"], rule="additive").state_dict()
            ),
            "`state` must be of the rule",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
