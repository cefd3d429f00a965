"""Rewards against loops over answers, and what a user's own function may do wrong."""

import itertools
import math
import re

import pytest
import torch
from support.trainer_runs import TINY_MODEL

from fluxcore.rl.rewards import (
    RewardBatch,
    RewardError,
    Rewards,
    exact_match,
    length,
    ngram_repetition,
    regex,
    repetition,
)
from fluxcore.training.models import load_model

ANSWERS = ([1, 1, 2, 2, 2], [7], [1, 2, 3, 1, 2, 3, 1, 2], [5, 4, 5, 4])
PROMPTS = ([2, 1], [9, 9, 9], [4], [5])


def batch(padding=1):
    p, a = (max(map(len, rows)) for rows in (PROMPTS, ANSWERS))
    tokens, attention = torch.full((4, p + a), padding), torch.zeros(4, p + a, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        place = slice(p - len(prompt), p + len(answer))
        tokens[row, place], attention[row, place] = torch.tensor([*prompt, *answer]), True
    return RewardBatch(
        tokens=tokens,
        attention=attention,
        mask=attention[:, -a:],
        decode=lambda ids: "".join("abcdefghij"[i] for i in ids),
    )


def test_texts_are_without_padding():
    assert batch().prompts == ["cb", "jjj", "e", "f"]
    assert batch().answers == ["bbccc", "h", "bcdbcdbc", "fefe"]


@pytest.mark.parametrize("padding", [1, 2])
def test_repetition_is_charged_where_it_happens(padding):
    got = repetition(batch(padding), penalty=0.1)
    for row, answer in enumerate(ANSWERS):
        expected = [0.0] + [-0.1 * (a == b) for a, b in itertools.pairwise(answer)]
        assert got[row, : len(answer)].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_ngrams_that_came_before(n):
    got = ngram_repetition(batch(), n=n, penalty=2.0)
    for row, answer in enumerate(ANSWERS):
        grams = [tuple(answer[i : i + n]) for i in range(len(answer) - n + 1)]
        share = (len(grams) - len(set(grams))) / max(len(grams), 1)
        assert float(got[row]) == pytest.approx(-2.0 * share)


def test_text_and_length():
    assert length(batch(), target=4).tolist() == pytest.approx([-abs(len(a) - 4) / 4 for a in ANSWERS])
    covered = [len("".join(re.findall("b|c+", text))) / len(text) for text in batch().answers]
    assert regex(batch(), pattern="b|c+").tolist() == pytest.approx(covered)
    assert exact_match(batch(), text="fefe").tolist() == [0, 0, 0, 1]


def test_log_likelihood_is_of_the_answer_alone(tmp_path):
    torch.manual_seed(0)
    judge = load_model("micro", vocab_size=10, context=16, overrides={**TINY_MODEL, "resid_pdrop": 0.0})
    for parameter in judge.parameters():
        parameter.data.normal_(0, 0.5)
    judge.save_pretrained(tmp_path)
    rewards = Rewards([("log_likelihood", 1.0, {"model": str(tmp_path)})])
    _, of_answers = rewards(batch())
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        with torch.no_grad():
            logp = judge.eval()(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        mean = sum(float(logp[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)) / len(answer)
        assert float(of_answers["log_likelihood"][row]) == pytest.approx(mean, rel=1e-4)


def test_rewards_add_up_by_weight_and_the_last_token_gets_those_of_answers():
    rewards = Rewards([("repetition", 2.0, {}), ("length", -1.0, {"target": 5}), ("repetition", 1.0, {"penalty": 1.0})])
    total, of_answers = rewards(batch())
    assert list(of_answers) == ["repetition", "length", "repetition#2"]
    for row, answer in enumerate(ANSWERS):
        repeats = [0.0] + [float(a == b) for a, b in itertools.pairwise(answer)]
        expected = [-0.2 * each - 1.0 * each for each in repeats]
        expected[-1] += abs(len(answer) - 5) / 5
        assert total[row, : len(answer)].tolist() == pytest.approx(expected, abs=1e-6)
        assert (total[row, len(answer) :] == 0).all()


def halves(batch, *, value=0.5):
    return torch.full((len(batch.mask),), value)


def test_a_function_of_the_users_own():
    total, _ = Rewards([(f"{__name__}:halves", 1.0, {"value": 0.25})])(batch())
    assert total.sum(1).tolist() == [0.25] * 4


def raises(batch):
    raise KeyError("no such thing")


def not_finite(batch):
    return torch.tensor([0.0, 1.0, math.inf, 1.0])


def nan_in_the_padding(batch):
    return torch.where(batch.mask, 1.0, math.nan)


def one_number(batch):
    return torch.tensor(1.0)


def a_list(batch):
    return [1.0] * 4


@pytest.fixture
def by_name(monkeypatch):
    from fluxcore.rl import rewards

    for function in (raises, not_finite, nan_in_the_padding, one_number, a_list):
        monkeypatch.setitem(rewards.REWARDS, function.__name__, function)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "the reward 'raises' raised KeyError: 'no such thing'"),
        ("not_finite", "the reward 'not_finite' must return finite numbers, got inf for the answer 'bcdbcdbc'"),
        ("one_number", r"must return a tensor of shape \(4,\), a number an answer, or \(4, 8\), .* got shape \(\)"),
        ("a_list", "a number a token, got list"),
    ],
)
@pytest.mark.usefixtures("by_name")
def test_what_a_function_does_wrong_is_said(name, message):
    with pytest.raises(RewardError, match=message):
        Rewards([(name, 1.0, {})])(batch())


@pytest.mark.usefixtures("by_name")
def test_padding_of_a_reward_is_not_looked_at():
    total, _ = Rewards([("nan_in_the_padding", 1.0, {})])(batch())
    assert total.sum(1).tolist() == [len(answer) for answer in ANSWERS]


@pytest.mark.parametrize(
    ("weighted", "message"),
    [
        ([], "`rewards` must name a reward at least"),
        ([("niceness", 1.0, {})], "a reward must be one of repetition, .* or module:function, got 'niceness'"),
        ([("no_module:f", 1.0, {})], "'no_module:f' could not be imported: No module named 'no_module'"),
        ([("math:niceness", 1.0, {})], "'math:niceness' could not be imported"),
        ([("length", 1.0, {})], r"the reward 'length' does not take the `args` {}: missing a required"),
        ([("length", 1.0, {"goal": 3})], "the reward 'length' does not take the `args`"),
        ([("repetition", math.nan, {})], "the weight of reward 'repetition' must be finite, got nan"),
    ],
)
def test_names_and_arguments_are_checked(weighted, message):
    with pytest.raises(ValueError, match=message):
        Rewards(weighted)
