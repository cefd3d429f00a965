"""Estimators, controllers and losses, against loops over sequences of plain numbers."""

import math

import pytest
import torch

from fluxcore.rl import (
    AdaptiveKLController,
    FixedKLController,
    kl_estimate,
    masked_mean,
    policy_loss,
    value_loss,
    whiten,
)

LENGTHS = (5, 1, 3, 4)
NAN = float("nan")


def padded(seed, *, grad=False):
    """[4, 5] random numbers, NaN in the padding."""
    x = torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(mask(), x, NAN).requires_grad_(grad)


def mask():
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def rows(*tensors):
    """Tuples of numbers, sequence by sequence, token by token, without padding."""
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            yield tuple(float(x[row, t]) for x in tensors)


ESTIMATORS = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": lambda d: math.exp(d) - 1 - d}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_of_each_token(name):
    p, q = padded(0), padded(1)
    got = kl_estimate(p, q, estimator=name, mask=mask())
    expected = [ESTIMATORS[name](b - a) for a, b in rows(p, q)]
    assert got[mask()].tolist() == pytest.approx(expected, rel=1e-12)
    assert (got[~mask()] == 0).all()


@pytest.mark.parametrize(("name", "biased"), [("k1", False), ("k2", True), ("k3", False)])
def test_estimates_average_to_the_divergence(name, biased):
    torch.manual_seed(3)
    p, q = (torch.log_softmax(torch.randn(7, dtype=torch.float64) * scale, 0) for scale in (1.0, 0.8))
    every = kl_estimate(p, q, estimator=name, mask=torch.ones(7, dtype=torch.bool))
    exact = float((p.exp() * (p - q)).sum())
    mean = float((p.exp() * every).sum())
    assert (abs(mean - exact) < 1e-12) is not biased
    assert mean == pytest.approx(exact, rel=0.6)


def test_the_gradient_of_k2_is_that_of_the_divergence():
    torch.manual_seed(3)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(torch.randn(7, dtype=torch.float64), 0)
    p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
    sampled = (p.detach().exp() * kl_estimate(p, q, estimator="k2", mask=torch.ones(7, dtype=torch.bool))).sum()
    (got,) = torch.autograd.grad(sampled, logits)
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-14)


def test_padding_reaches_no_gradient():
    p = padded(0, grad=True)
    kl_estimate(p, padded(1), estimator="k3", mask=mask()).sum().backward()
    assert (p.grad[~mask()] == 0).all()
    assert p.grad[mask()].isfinite().all()


def clipped_surrogate(new, old, gain, clip):
    ratio = math.exp(new - old)
    return max(-gain * ratio, -gain * min(max(ratio, 1 - clip), 1 + clip))


def test_policy_loss_is_the_mean_over_tokens_of_all_sequences():
    new, old, gain = padded(0, grad=True), padded(1), padded(2)
    got = policy_loss(new, old, gain, mask=mask(), clip=0.1)
    tokens = list(rows(new.detach(), old, gain))
    ratios = [math.exp(a - b) for a, b, _ in tokens]
    n = sum(LENGTHS)
    assert got.loss.item() == pytest.approx(sum(clipped_surrogate(*each, 0.1) for each in tokens) / n, rel=1e-12)
    assert float(got.ratio) == pytest.approx(sum(ratios) / n, rel=1e-12)
    assert float(got.clip_fraction) == sum(abs(r - 1) > 0.1 for r in ratios) / n
    assert 0 < float(got.clip_fraction) < 1
    assert float(got.approx_kl) == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / n, rel=1e-12)
    got.loss.backward()
    assert not any(x.requires_grad for x in got[1:])
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            a, b, c = (float(x.detach()[row, t]) for x in (new, old, gain))
            r = math.exp(a - b)
            free = -c * r >= -c * min(max(r, 0.9), 1.1)
            assert float(new.grad[row, t]) == pytest.approx(-c * r / n if free else 0.0, rel=1e-10, abs=1e-15)
    assert (new.grad[~mask()] == 0).all()


@pytest.mark.parametrize("clip", [0.2, None])
def test_value_loss_takes_the_worse_error(clip):
    now, old, goal = padded(3, grad=True), padded(4), padded(5)
    got = value_loss(now, old, goal, mask=mask(), clip=clip)
    total = beyond = 0.0
    for v, o, g in rows(now.detach(), old, goal):
        held = v if clip is None else o + min(max(v - o, -clip), clip)
        total += max((v - g) ** 2, (held - g) ** 2) / 2
        beyond += (held - g) ** 2 > (v - g) ** 2
    assert got.loss.item() == pytest.approx(total / sum(LENGTHS), rel=1e-12)
    assert float(got.clip_fraction) == beyond / sum(LENGTHS)
    got.loss.backward()
    assert now.grad[mask()].abs().sum() > 0
    assert (now.grad[~mask()] == 0).all()


def test_parts_of_a_step_add_up():
    new, old, gain = padded(0), padded(1), padded(2)
    whole = policy_loss(new, old, gain, mask=mask())
    parts = [
        policy_loss(new[half], old[half], gain[half], mask=mask()[half], tokens=sum(LENGTHS))
        for half in (slice(0, 2), slice(2, 4))
    ]
    for name in whole._fields:
        assert float(sum(getattr(part, name) for part in parts)) == pytest.approx(float(getattr(whole, name)))


def test_whitening_is_over_the_kept_tokens():
    x = padded(6)
    got = whiten(x, mask())
    kept = [value for (value,) in rows(x)]
    mean = sum(kept) / len(kept)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in kept) / len(kept))
    assert got[mask()].tolist() == pytest.approx([(value - mean) / deviation for value in kept], rel=1e-7)
    unshifted = whiten(x, mask(), shift_mean=False)
    expected = [(value - mean) / deviation + mean for value in kept]
    assert unshifted[mask()].tolist() == pytest.approx(expected, rel=1e-7)
    assert (got[~mask()] == 0).all()
    assert (unshifted[~mask()] == 0).all()


def test_whitening_over_ranks_is_that_of_one():
    x, whole = padded(6), whiten(padded(6), mask())
    halves = (slice(0, 1), slice(1, 4))
    # What each rank sums, in turn: first sums and counts, then squares, which both need the mean of all.
    kept = torch.where(mask(), x, 0)
    sums = [torch.tensor([float(kept[half].sum()), float(mask()[half].sum())]) for half in halves]
    mean = float(sum(sums)[0] / sum(sums)[1])
    squares = sum(torch.where(mask()[half], x[half] - mean, 0).square().sum() for half in halves)
    for half in halves:
        answers = iter([sum(sums).double(), squares])
        got = whiten(x[half], mask()[half], sum_over_ranks=lambda _, answers=answers: next(answers))
        torch.testing.assert_close(got, whole[half], rtol=1e-6, atol=1e-8)


def test_equal_or_no_entries_do_not_become_nan():
    assert whiten(torch.full((2, 2), 3.0), torch.ones(2, 2, dtype=torch.bool)).abs().max() == 0
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert whiten(torch.full((2, 2), NAN), none).abs().max() == 0
    assert masked_mean(torch.full((2, 2), NAN), none) == 0


def test_adaptive_controller_follows_its_rule():
    controller = AdaptiveKLController(0.2, target=0.01, horizon=1000)
    for kl, factor in ((0.02, 1 + 0.2 * 0.1), (0.0105, 1 + 0.05 * 0.1), (0.01, 1.0), (-0.5, 1 - 0.2 * 0.1)):
        before = controller.coefficient
        assert controller.update(kl, 100) == pytest.approx(before * factor, rel=1e-12)
    again = AdaptiveKLController(9.0, target=0.01, horizon=1000)
    again.load_state_dict(controller.state_dict())
    assert again.update(0.03, 100) == controller.update(0.03, 100)


def test_adaptive_controller_brings_the_divergence_to_its_target():
    # The stronger the penalty, the nearer the policy stays: here KL = 0.1 / (1 + 10 coefficient).
    controller = AdaptiveKLController(0.01, target=0.02, horizon=100)
    for _ in range(200):
        controller.update(0.1 / (1 + 10 * controller.coefficient), 50)
    assert 0.1 / (1 + 10 * controller.coefficient) == pytest.approx(0.02, rel=0.01)


def test_fixed_controller_stays():
    controller = FixedKLController(0.3)
    assert controller.update(5.0, 10) == controller.update(NAN, 10) == 0.3


ONE = torch.zeros(1, 1)
ALL = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptiveKLController(0.1, target=0, horizon=10), "`target` must be finite and > 0, got 0\n\nTo train"),
        (lambda: AdaptiveKLController(0.0, target=1, horizon=10), "`coefficient` must be finite and > 0"),
        (lambda: AdaptiveKLController(0.1, target=1, horizon=10).update(NAN, 1), "`kl` must be finite, got nan"),
        (lambda: AdaptiveKLController(0.1, target=1, horizon=10).update(1, 50), "`tokens` must be within"),
        (lambda: FixedKLController(-1), "`coefficient` must be finite and >= 0, got -1"),
        (lambda: kl_estimate(ONE, ONE, estimator="k4", mask=ALL), "`estimator` must be one of k1, k2, k3, got 'k4'"),
        (lambda: kl_estimate(ONE, ONE[0], mask=ALL), "`ref_logprobs` must have the shape"),
        (lambda: policy_loss(ONE, ONE, ONE, mask=ALL, clip=1.5), r"`clip` must be within \(0, 1\), got 1.5"),
        (lambda: policy_loss(ONE, ONE, ONE.clone().requires_grad_(), mask=ALL), "`advantages` must not require grad"),
        (lambda: value_loss(ONE, ONE, ONE, mask=ALL[0]), "`mask` must have the shape"),
        (lambda: value_loss(ONE, ONE, ONE, mask=ALL, clip=0), "`clip` must be > 0"),
        (lambda: whiten(ONE, ALL, eps=0), "`eps` must be > 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(TypeError, match="`mask` must be bool"):
        masked_mean(ONE, ONE)
