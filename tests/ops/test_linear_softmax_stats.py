"""`linear_softmax_stats` on every backend: values and gradients against the float64 definition; chunks, products."""

from typing import get_args

import pytest
import torch
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate
from support.products import CountProducts

from fluxcore import reference, softmax_stats
from fluxcore.backends import Backend
from fluxcore.ops import _linear_softmax_stats_op as passes
from fluxcore.ops.linear_cross_entropy import LinearOptions
from fluxcore.ops.linear_softmax_stats import linear_softmax_stats

device = device_fixture(get_args(Backend))
F = torch.nn.functional
IMPLEMENTATIONS = {
    "fluxcore::linear_softmax_stats_fwd": passes.forward,
    "fluxcore::linear_softmax_stats_bwd": passes.backward,
}
REAL = ("lse", "logprob", "entropy", "varentropy", "max_prob", "one_minus_max_prob", "top_k_mass")


def leaves(device, dtype=torch.float32, N=12, D=9, V=70):
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in [(N, D), (V, D), (V,)]]


def linear_then(function, hidden, weight, target=None, *, linear_bias=None, options=None, **rest):
    return function(F.linear(hidden, weight, linear_bias), target, **rest)


def values_and_gradients(function, tensors, **options):
    """Of all outputs, for upstream gradients of each output and row."""
    hidden, weight, bias = tensors
    stats = function(hidden, weight, linear_bias=bias, options=LinearOptions(rows=5), **options)
    values = torch.stack([getattr(stats, name) for name in REAL])
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(values)
    return values.detach(), torch.autograd.grad(values, tensors, upstream)


def by_reference(*args, **options):
    return linear_then(reference.softmax_stats, *args, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_values_and_gradients(dtype, device):
    tensors = leaves(device, dtype)
    options = {"target": torch.randint(70, (12,), device=device), "outputs": REAL, "top_k": 3}
    options |= {"temperature": 0.8, "softcap": 12.0}
    ours, our_gradients = values_and_gradients(linear_softmax_stats, tensors, **options)
    than, than_gradients = values_and_gradients(by_reference, tensors, **options)
    wide = [value.detach().double().requires_grad_() for value in tensors]
    exact, exact_gradients = values_and_gradients(by_reference, wide, **options)
    assert_no_less_accurate(ours, than=than, exact=exact)
    for our, naive, true, leaf in zip(our_gradients, than_gradients, exact_gradients, tensors, strict=True):
        assert our.dtype == leaf.dtype
        assert_no_less_accurate(our, than=naive, exact=true)


@pytest.mark.parametrize("rows", [1, 5, 12, None])
def test_chunks_change_rounding_alone(rows, device):
    hidden, weight, _ = leaves(device)
    target = torch.randint(70, (3, 4), device=device)
    names = ("logprob", "entropy", "argmax")
    stats = linear_softmax_stats(
        hidden.reshape(3, 4, 9), weight, target, outputs=names, options=LinearOptions(rows=rows)
    )
    expected = softmax_stats(F.linear(hidden, weight).reshape(3, 4, 70), target, outputs=names)
    assert stats.varentropy is None
    for name in names:
        torch.testing.assert_close(getattr(stats, name), getattr(expected, name))
    ours, theirs = (
        torch.autograd.grad((value.logprob * 3 - value.entropy).sum(), (hidden, weight)) for value in (stats, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_finite_differences_agree(device):
    tensors = [value.detach()[:6].double().requires_grad_() for value in leaves(device, D=3)]
    target = torch.tensor([0, 5, 2, 2, 1, 3], device=device)

    def values(hidden, weight, bias):
        stats = linear_softmax_stats(
            hidden, weight, target, linear_bias=bias, outputs=REAL, top_k=2, options=LinearOptions(rows=4)
        )
        return tuple(getattr(stats, name) for name in REAL)

    assert_finite_differences_agree(values, tensors)


@pytest.mark.parametrize(("needs", "expected"), [("hw", 3), ("h", 2), ("w", 2), ("", 0)])
def test_no_product_is_wasted(needs, expected):
    hidden, weight, bias = leaves("cpu")
    hidden.requires_grad_("h" in needs)
    weight.requires_grad_("w" in needs)
    with CountProducts(IMPLEMENTATIONS) as forward:
        entropy = linear_softmax_stats(hidden, weight, linear_bias=bias.detach(), outputs=("entropy",)).entropy
    unit = 2 * hidden.shape[0] * weight.numel()
    assert forward.flop == unit
    with CountProducts(IMPLEMENTATIONS) as backward:
        if needs:
            entropy.sum().backward()
    assert backward.flop == expected * unit


def test_rows_without_upstream_gradient_get_none_whatever_the_hidden_states(device):
    hidden, weight, bias = tensors = leaves(device)
    bad = hidden.detach().clone()
    bad[3] = torch.nan
    bad.requires_grad_()
    kept = torch.arange(12, device=device) != 3
    kept[7] = False
    ours = linear_softmax_stats(bad, weight, linear_bias=bias, outputs=("entropy", "lse"))
    expected = linear_softmax_stats(hidden, weight, linear_bias=bias, outputs=("entropy", "lse"))
    upstream = kept.float()
    with CountProducts(IMPLEMENTATIONS) as count:
        gradients = torch.autograd.grad((ours.entropy, ours.lse), (bad, weight, bias), (upstream, 2 * upstream))
    theirs = torch.autograd.grad((expected.entropy, expected.lse), tensors, (upstream, 2 * upstream))
    torch.testing.assert_close(gradients, theirs)
    if device.type == "cpu":
        assert count.flop == 3 * 2 * 10 * weight.numel()
