"""Gradients written over the logits that they are of, as the linear ops do it: the same bits as beside them."""

from typing import get_args

import pytest
import torch
from support.devices import device_fixture

from fluxcore.backends import Backend
from fluxcore.ops import _cross_entropy_backends as cross_entropy_rows
from fluxcore.ops import _kl_div_backends as kl_div_rows
from fluxcore.ops import _softmax_stats_backends as stats_rows
from fluxcore.ops._cross_entropy_backends import Options

device = device_fixture(get_args(Backend))
# Whole rows in a Triton program, with edges; a row a program; several programs a row.
SHAPES = [(7, 65), (5, 2100), (1, 4200)]
PLAIN = Options("softmax", "given", -100, 0.0, 0.0, "", 0.0, 0, 0, 1.0, 0.0)
LOSSES = {
    "plain": {},
    "z-loss, entropy, softcap": {
        "lse_square_scale": 0.1, "penalty": "neg_entropy", "penalty_coef": 0.3, "temperature": 0.8, "softcap": 9.0,
    },
    "largest": {"penalty": "non_max_sum", "penalty_coef": 0.3},
    "top k": {"penalty": "top_k_mass", "penalty_coef": 0.3, "top_k": 3},
    "smoothing": {"label_smoothing": 0.1},
    "stablemax": {"link": "stablemax", "label_smoothing": 0.1},
}  # fmt: skip
CALLS = [
    *((loss, torch.float32, SHAPES[0]) for loss in LOSSES),
    *((loss, torch.float32, shape) for loss in ("largest", "top k") for shape in SHAPES[1:]),
    ("smoothing", torch.bfloat16, SHAPES[0]),
]


def logits_of(shape, device, dtype=torch.float32):
    logits = 4 * torch.randn(shape, device=device)
    logits[0, 3], logits[-1, 0] = -torch.inf, 30.0
    return logits.to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("outputs", "top_k"), [(0b0111111, 0), (0b1000010, 3)], ids=["all but top k", "top k"])
def test_softmax_stats(outputs, top_k, shape, device):
    logits, target = logits_of(shape, device), torch.randint(shape[1], shape[:1], device=device)
    options = (outputs, top_k, 0.9, 20.0)
    stats, *saved = stats_rows.forward(logits, target, *options)
    grads = torch.randn_like(stats)
    grads[:, -1] = 0
    for upstream in (grads, torch.full_like(grads, torch.inf)):
        expected = stats_rows.backward(upstream, logits, target, *saved, *options)
        memory = logits.clone()
        assert stats_rows.backward(upstream, memory, target, *saved, *options, gradient=memory) is memory
        torch.testing.assert_close(memory, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("loss", "dtype", "shape"), CALLS, ids=str)
def test_cross_entropy(loss, dtype, shape, device):
    (N, V), options = shape, PLAIN._replace(**LOSSES[loss])
    logits, target = logits_of(shape, device, dtype), torch.randint(V, (N,), device=device)
    target[N // 2 :] = logits[N // 2 :].argmax(1)
    if N > 2:
        target[1] = -100
    inputs = (target, torch.rand(V, device=device), None, None)
    totals = torch.tensor([3.0, 2.0, 4.0, 0.0], device=device)
    totals[3] = inputs[1].sum()

    def forward(own):
        results = cross_entropy_rows.empty_results(own, options, False)
        results.totals.copy_(totals)
        given = torch.empty_like(own) if own is logits else own
        return cross_entropy_rows.forward(own, *inputs, *options, True, results=results._replace(gradient=given))

    expected, memory = forward(logits), logits.clone()
    ours = forward(memory)
    assert ours.gradient is memory
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    memory = logits.clone()
    saved = (expected.argmax, expected.state, expected.top_index, totals)
    upstream = torch.ones((), device=device)
    cross_entropy_rows.backward(upstream, memory, *inputs, *saved, *options, gradient=memory)
    again = cross_entropy_rows.backward(upstream, logits, *inputs, *saved, *options)
    torch.testing.assert_close(memory, again, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("direction", "shape"),
    [("policy_ref", SHAPES[0]), ("policy_ref", SHAPES[2]), ("ref_policy", SHAPES[0]), ("jsd", SHAPES[0])],
    ids=str,
)
def test_kl_div(direction, shape, device):
    logits, ref_logits = (logits_of(shape, device) for _ in range(2))
    options = (direction, 0.4, "none", 0.8)
    _, state, totals = kl_div_rows.forward(logits, ref_logits, None, *options)
    upstream = torch.randn(shape[0], device=device)
    expected = kl_div_rows.backward(upstream, logits, ref_logits, None, state, totals, *options)
    memory = logits.clone()
    kl_div_rows.backward(upstream, memory, ref_logits, None, state, totals, *options, gradient=memory)
    torch.testing.assert_close(memory, expected, rtol=0, atol=0)
