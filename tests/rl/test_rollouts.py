"""The buffer against a loop over sequences that knows no padding."""

import dataclasses
from itertools import chain

import pytest
import torch

from fluxcore.rl import RolloutBuffer, Rollouts, concatenate

# (prompt, answer) lengths of the rows of each part.
PARTS = (((2, 3), (4, 1)), ((1, 5), (6, 2), (3, 5)))
GAMMA, LAM, COEFFICIENT = 0.97, 0.9, 0.3


def sequences():
    """Rows as plain lists: tokens of prompt and answer, and four numbers a token of the answer."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for lengths in PARTS:
        for prompt, answer in lengths:
            tokens = torch.randint(1, 50, (prompt + answer,), generator=generator).tolist()
            numbers = torch.randn(4, answer, generator=generator, dtype=torch.float64).tolist()
            found.append((tokens[:prompt], tokens[prompt:], *numbers))
    return found


def padded_parts(padding=float("nan")):
    rows = iter(sequences())
    parts, row_id = [], 0
    for lengths in PARTS:
        p, a = (max(each[i] for each in lengths) for i in (0, 1))
        part = {
            "tokens": torch.full((len(lengths), p + a), 99),
            "attention": torch.zeros(len(lengths), p + a, dtype=torch.bool),
            "mask": torch.zeros(len(lengths), a, dtype=torch.bool),
            "row_ids": torch.arange(row_id, row_id + len(lengths)),
        }
        part |= {
            name: torch.full((len(lengths), a), padding, dtype=torch.float64)
            for name in ("logprobs", "values", "kl", "rewards")
        }
        row_id += len(lengths)
        for i in range(len(lengths)):
            prompt, answer, *numbers = next(rows)
            whole = slice(p - len(prompt), p + len(answer))
            part["tokens"][i, whole] = torch.tensor(prompt + answer)
            part["attention"][i, whole] = True
            part["mask"][i, : len(answer)] = True
            for name, values in zip(("logprobs", "values", "kl", "rewards"), numbers, strict=True):
                part[name][i, : len(answer)] = torch.tensor(values, dtype=torch.float64)
        parts.append(Rollouts(**part))
    return parts


def advantages_of(values, kl, rewards):
    """One sequence, from its end."""
    found, following, running = [], 0.0, 0.0
    for v, k, r in zip(reversed(values), reversed(kl), reversed(rewards), strict=True):
        running = r - COEFFICIENT * k + GAMMA * following - v + GAMMA * LAM * running
        found.insert(0, running)
        following = v
    return found


def test_advantages_are_those_of_each_sequence_alone():
    buffer = RolloutBuffer(padded_parts(), gamma=GAMMA, lam=LAM, kl_coefficient=COEFFICIENT, whiten_advantages=False)
    expected = [advantages_of(values, kl, rewards) for _, _, _, values, kl, rewards in sequences()]
    for row, (advantages, sequence) in enumerate(zip(expected, sequences(), strict=True)):
        n = len(advantages)
        assert buffer.advantages[row, :n].tolist() == pytest.approx(advantages, rel=1e-12)
        returns = [a + v for a, v in zip(advantages, sequence[3], strict=True)]
        assert buffer.returns[row, :n].tolist() == pytest.approx(returns, rel=1e-12)
        assert (buffer.advantages[row, n:] == 0).all()
    whitened = RolloutBuffer(padded_parts(), gamma=GAMMA, lam=LAM, kl_coefficient=COEFFICIENT)
    kept = torch.tensor(list(chain(*expected)), dtype=torch.float64)
    scaled = (kept - kept.mean()) / kept.std(correction=0)
    torch.testing.assert_close(whitened.advantages[whitened.rollouts.mask], scaled, rtol=1e-6, atol=1e-8)


def test_concatenation_keeps_every_token_in_its_place():
    whole = concatenate(padded_parts())
    width = whole.answer_width
    for row, (prompt, answer, logprobs, *_) in enumerate(sequences()):
        assert whole.tokens[row][whole.attention[row]].tolist() == prompt + answer
        assert whole.tokens[row, :-width][whole.attention[row, :-width]].tolist() == prompt
        assert whole.tokens[row, -width:][whole.mask[row]].tolist() == answer
        assert whole.logprobs[row][whole.mask[row]].tolist() == logprobs
    assert whole.row_ids.tolist() == list(range(5))


def test_minibatches_hold_every_row_once_an_epoch():
    buffer = RolloutBuffer(padded_parts(), gamma=GAMMA, lam=LAM)
    generator = torch.Generator().manual_seed(1)
    epochs = [[part.rollouts.row_ids.tolist() for part in buffer.minibatches(2, generator)] for _ in range(3)]
    assert all(sorted(chain(*epoch)) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert [len(part) for part in epochs[0]] == [2, 2, 1]
    assert epochs[0] != epochs[1]
    again = torch.Generator().manual_seed(1)
    assert [part.rollouts.row_ids.tolist() for part in buffer.minibatches(2, again)] == epochs[0]
    for part in buffer.minibatches(2, generator):
        rows = part.rollouts.row_ids
        assert torch.equal(part.advantages, buffer.advantages[rows])
        assert torch.equal(part.rollouts.tokens, buffer.rollouts.tokens[rows])


def change(part, name, value):
    return dataclasses.replace(part, **{name: value})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("attention", lambda x: x.flip(1), "`mask` must be `attention` of the answers"),
        ("values", lambda x: x[:, 1:], "`values` must have the shape of `mask`"),
        ("tokens", lambda x: x[:, -3:], "`tokens` and `attention` must have a shape"),
        (
            "attention",
            lambda x: torch.cat([x[:, :4].flip(1), x[:, 4:]], 1),
            "`attention` must pad prompts at their beg",
        ),
    ],
)
def test_padding_is_checked(name, wrong, message):
    part = padded_parts()[0]
    with pytest.raises(ValueError, match=message):
        change(part, name, wrong(getattr(part, name)))


def test_a_buffer_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`parts` must hold rollouts"):
        RolloutBuffer([], gamma=1.0, lam=1.0)
    buffer = RolloutBuffer(padded_parts(), gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="`rows` must be >= 1, got 0"):
        next(buffer.minibatches(0, torch.Generator()))
