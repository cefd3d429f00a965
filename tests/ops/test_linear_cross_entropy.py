"""Loss and gradients of `linear_cross_entropy` on every backend, against the float64 definition; chunks, products."""

import pytest
import torch
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate
from support.products import CountProducts

from fluxcore import reference
from fluxcore.ops import _linear_cross_entropy_passes as passes
from fluxcore.ops._cross_entropy_backends import BACKENDS
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.ops.linear_cross_entropy import LinearOptions, linear_cross_entropy
from fluxcore.sharpness import Sharpness

device = device_fixture(BACKENDS)
F = torch.nn.functional
IMPLEMENTATIONS = {
    "fluxcore::linear_cross_entropy_fwd": passes.forward,
    "fluxcore::linear_cross_entropy_bwd": passes.backward,
}


def leaves(device, dtype=torch.float32, N=20, D=12, V=150, bias=True):
    shapes = [(N, D), (V, D), *([(V,)] if bias else [])]
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]


def by_logits(function, hidden, head, bias, target, /, **options):
    return function(F.linear(hidden, head, bias), target, **options)


def gradients(loss, tensors):
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1)).to(loss)
    return torch.autograd.grad(loss, tensors, upstream)


def assert_like_the_logits(tensors, target, **options):
    """Twice plain PyTorch's own error against float64, for the loss and all three gradients."""
    hidden, weight, *bias = tensors
    bias = bias[0] if bias else None
    ours = linear_cross_entropy(hidden, weight, target, linear_bias=bias, options=LinearOptions(rows=7), **options)
    than = by_logits(reference.cross_entropy, hidden, weight, bias, target, **options)
    wide = [value.detach().double().requires_grad_() for value in tensors]
    exact_target = target.double() if target.is_floating_point() else target
    exact = by_logits(reference.cross_entropy, *wide[:2], wide[2] if len(wide) == 3 else None, exact_target, **options)
    assert_no_less_accurate(ours.detach(), than=than.detach(), exact=exact.detach())
    for our, naive, true, leaf in zip(
        gradients(ours, tensors), gradients(than, tensors), gradients(exact, wide), tensors, strict=True
    ):
        assert our.dtype == leaf.dtype
        assert_no_less_accurate(our, than=naive, exact=true)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "token_mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_loss_and_gradients(dtype, reduction, bias, device):
    target = torch.randint(150, (20,), device=device)
    target[3:8] = -100
    assert_like_the_logits(leaves(device, dtype, bias=bias), target, reduction=reduction)


OPTIONS = [
    {"penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1},
    {"penalty": Sharpness("top_k_mass", 0.3, k=3), "label_smoothing": 0.1, "softcap": 5.0, "temperature": 0.7},
    {"link": "stablemax", "label_smoothing": 0.1},
]


@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean", "token_mean"])
@pytest.mark.parametrize("options", OPTIONS, ids=["z-loss", "top-k", "stablemax"])
def test_every_option_of_cross_entropy(options, reduction, probabilities, device):
    target = torch.randint(150, (20,), device=device)
    target[5] = -100
    if probabilities:
        target = torch.rand(20, 150, device=device)
    weights = {"weight": torch.rand(150, device=device), "token_weight": torch.rand(20, device=device)}
    if "penalty" in options:
        weights["penalty_mask"] = torch.rand(20, device=device)
    weights["token_weight"][11] = 0
    assert_like_the_logits(leaves(device), target, reduction=reduction, **options, **weights)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_statistics_are_of_every_row(reduction, device):
    hidden, weight, bias = leaves(device)
    target = torch.randint(150, (20,), device=device)
    target[3:8] = -100
    names = ("lse", "logprob", "entropy", "argmax", "one_minus_max_prob")
    options = {"reduction": reduction, "return_stats": names}
    loss, stats = linear_cross_entropy(
        hidden, weight, target, linear_bias=bias, options=LinearOptions(rows=7), **options
    )
    expected, expected_stats = by_logits(cross_entropy, hidden, weight, bias, target, **options)
    torch.testing.assert_close(loss, expected)
    for name in names:
        torch.testing.assert_close(getattr(stats, name), getattr(expected_stats, name), equal_nan=True)
    assert not stats.entropy.requires_grad
    tensors = (hidden, weight, bias)
    torch.testing.assert_close(gradients(loss, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("ignored", [[], [0, 7, 8, 19], list(range(20))], ids=["none", "some", "all"])
@pytest.mark.parametrize("rows", [1, 6, 19, 20, 1000, None])
def test_chunks_change_rounding_alone(rows, ignored, reduction, device):
    hidden, weight, bias = tensors = leaves(device)
    target = torch.randint(150, (20,), device=device)
    target[ignored] = -100
    loss = linear_cross_entropy(
        hidden, weight, target, linear_bias=bias, reduction=reduction, options=LinearOptions(rows=rows)
    )
    expected = by_logits(cross_entropy, hidden, weight, bias, target, reduction=reduction)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    torch.testing.assert_close(gradients(loss, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("shape", [(0,), (4, 0), (1,), (2, 3, 4)], ids=str)
def test_leading_dims(shape, device):
    hidden = torch.randn(*shape, 8, device=device, requires_grad=True)
    weight = torch.randn(11, 8, device=device, requires_grad=True)
    target = torch.randint(11, shape, device=device)
    rows = linear_cross_entropy(hidden, weight, target, reduction="none")
    assert rows.shape == shape
    expected = cross_entropy(F.linear(hidden, weight), target, reduction="none")
    torch.testing.assert_close(rows, expected)
    total = linear_cross_entropy(hidden, weight, target, reduction="sum")
    torch.testing.assert_close(gradients(total, (hidden, weight)), gradients(expected.sum(), (hidden, weight)))


@pytest.mark.parametrize("stats", [None, ("argmax",)], ids=["", "statistics"])
@pytest.mark.parametrize("reduction", ["none", "token_mean"])
def test_rows_that_do_not_count_have_no_effect_whatever_the_hidden_states(reduction, stats, device):
    hidden, weight, bias = leaves(device)
    target = torch.randint(150, (20,), device=device)
    clean = linear_cross_entropy(hidden[2:18], weight, target[2:18].clone(), linear_bias=bias, reduction=reduction)
    bad = hidden.detach().clone()
    bad[:2], bad[18:] = torch.nan, torch.inf
    bad.requires_grad_()
    target[:2] = -100
    options = {"token_weight": torch.ones(20, device=device), "reduction": reduction, "return_stats": stats}
    options["token_weight"][18:] = 0
    loss = linear_cross_entropy(bad, weight, target, linear_bias=bias, options=LinearOptions(rows=7), **options)
    loss = loss[0] if stats else loss  # with statistics no row is left out of the products
    own = loss[2:18] if reduction == "none" else loss
    torch.testing.assert_close(own, clean)
    ours = gradients(own, (bad, weight, bias))
    torch.testing.assert_close(ours, gradients(clean, (hidden, weight, bias)))
    assert ours[0][:2].eq(0).all()
    assert ours[0][18:].eq(0).all()


def products(tensors, target, backward=True, **options):
    """Operations of the matrix products of a call, in units of those of the logits."""
    hidden, weight, bias = tensors
    with CountProducts(IMPLEMENTATIONS) as forward:
        loss = linear_cross_entropy(
            hidden, weight, target, linear_bias=bias, options=LinearOptions(rows=7), **options
        ).sum()
    with CountProducts(IMPLEMENTATIONS) as again:
        if backward:
            loss.backward()
    unit = 2 * target.numel() * weight.numel()
    return forward.flop / unit, again.flop / unit


def test_no_product_is_wasted():
    target = torch.randint(150, (20,))
    for reduction, both, one, none in [
        ("mean", (3, 0), (2, 0), (1, 0)),
        ("none", (1, 3), (1, 2), (1, 0)),
    ]:
        hidden, weight, bias = leaves("cpu")
        assert products((hidden, weight, bias), target, reduction=reduction) == both
        assert hidden.grad is not None
        assert products((hidden.detach(), weight, bias), target, reduction=reduction) == one
        assert products((hidden, weight.detach(), bias.detach()), target, reduction=reduction) == one
        detached = (hidden.detach(), weight.detach(), bias.detach())
        assert products(detached, target, backward=False, reduction=reduction) == none
        with torch.no_grad():
            assert products((hidden, weight, bias), target, backward=False, reduction=reduction) == none
        only_bias = (hidden.detach(), weight.detach(), bias)
        assert products(only_bias, target, reduction=reduction) == ((1, 0) if reduction == "mean" else (1, 1))


def test_rows_that_do_not_count_get_no_product_on_a_cpu():
    target = torch.randint(150, (20,))
    target[:15] = -100
    assert products(leaves("cpu"), target, reduction="mean") == (0.75, 0)
    hidden, weight, _ = leaves("cpu")
    rows = linear_cross_entropy(hidden, weight, target.clamp(min=0), reduction="none")
    upstream = torch.zeros(20)
    upstream[4:9] = 1
    with CountProducts(IMPLEMENTATIONS) as count:
        rows.backward(upstream)
    assert count.flop == 3 * 2 * 5 * weight.numel()


def test_runs_are_bitwise_equal(device):
    for reduction in ("mean", "none"):
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            hidden, weight, bias = tensors = leaves(device)
            loss = linear_cross_entropy(
                hidden, weight, torch.arange(20, device=device), linear_bias=bias, reduction=reduction,
                options=LinearOptions(rows=6),
            )  # fmt: skip
            runs.append([loss, *gradients(loss, tensors)])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "token_mean"])
def test_finite_differences_agree(reduction, device):
    tensors = [value.detach()[:5].double().requires_grad_() for value in leaves(device, D=4)]
    target = torch.tensor([0, 4, -100, 2, 1], device=device)
    options = {"penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "label_smoothing": 0.1}

    def loss(hidden, weight, bias):
        return linear_cross_entropy(
            hidden, weight, target, linear_bias=bias, reduction=reduction, options=LinearOptions(rows=2), **options
        )

    assert_finite_differences_agree(loss, tensors)


def test_the_gradient_of_a_half_precision_weight_is_summed_in_float32():
    # 300 chunks of one row, each adding 1/2^9 of the sum: in bfloat16 the sum would stop growing.
    hidden = torch.ones(300, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    target = torch.zeros(300, dtype=torch.int64)
    linear_cross_entropy(hidden, weight, target, reduction="sum", options=LinearOptions(rows=1)).backward()
    assert weight.grad.tolist() == [[-150.0], [150.0]]
    weight.grad = None
    coarse = LinearOptions(rows=1, accumulate=torch.bfloat16)
    linear_cross_entropy(hidden, weight, target, reduction="sum", options=coarse).backward()
    assert weight.grad[0].item() != -150
