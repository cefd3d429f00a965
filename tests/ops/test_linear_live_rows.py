"""`LinearOptions.live_rows`: rows that count are brought together uncounted, and no others are multiplied."""

import pytest
import torch
from support.devices import device_fixture
from support.products import CountProducts

import fluxcore
from fluxcore import LinearOptions, explain, linear_cross_entropy, linear_kl_div, linear_softmax_stats
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes
from fluxcore.ops import _linear_softmax_stats_op as stats_passes
from fluxcore.ops._cross_entropy_backends import BACKENDS

device = device_fixture(BACKENDS)
N, D, V = 20, 8, 150
DEAD = [0, 3, 4, 5, 11, 12, 13, 18, 19]
LIVE = N - len(DEAD)
IMPLEMENTATIONS = {
    "fluxcore::linear_cross_entropy_fwd": ce_passes.forward,
    "fluxcore::linear_cross_entropy_bwd": ce_passes.backward,
    "fluxcore::linear_softmax_stats_bwd": stats_passes.backward,
}
CLASSES = pytest.mark.parametrize("classes", [None, 64], ids=["all classes", "some classes"])


def leaves(device):
    tensors = [torch.randn(shape, device=device) for shape in [(N, D), (V, D), (V,)]]
    tensors[0][DEAD] = torch.nan  # of no effect where nothing counts
    return [tensor.requires_grad_() for tensor in tensors]


def targets(device):
    target = torch.randint(V, (N,), device=device)
    target[DEAD] = -100
    return target


def loss_and_gradients(tensors, target, **options):
    hidden, weight, bias = tensors
    loss = linear_cross_entropy(hidden, weight, target, linear_bias=bias, **options)
    return loss, *torch.autograd.grad(loss.sum(), tensors)


@CLASSES
@pytest.mark.parametrize("most", [LIVE, LIVE + 2, N + 5])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_loss_is_as_if_nothing_had_been_said(reduction, most, classes, device):
    tensors, target = leaves(device), targets(device)
    ours = loss_and_gradients(
        tensors, target, reduction=reduction, options=LinearOptions(rows=6, classes=classes, live_rows=most)
    )
    expected = loss_and_gradients(tensors, target, reduction=reduction, options=LinearOptions(rows=6, classes=classes))
    torch.testing.assert_close(ours, expected)
    assert ours[1][DEAD].eq(0).all()


@CLASSES
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_rows_beyond_what_was_said_are_nan(reduction, classes, device):
    tensors, target = leaves(device), targets(device)
    options = LinearOptions(classes=classes, live_rows=LIVE - 2)
    loss, by_input, by_weight, by_bias = loss_and_gradients(tensors, target, reduction=reduction, options=options)
    missing = [16, 17]
    assert loss.isnan().any()
    if reduction == "none":
        assert loss.isnan().nonzero().flatten().tolist() == missing
    assert by_input.isnan().any(1).nonzero().flatten().tolist() == missing
    assert by_weight[0].isnan().all()
    assert by_bias[0].isnan()


def test_the_check_mode_raises_and_says_how_many_rows_count(device):
    tensors, target = leaves(device), targets(device)
    with fluxcore.check_targets(), pytest.raises(ValueError, match=rf"`options.live_rows` must be at least {LIVE}.*3$"):
        loss_and_gradients(tensors, target, options=LinearOptions(live_rows=3))


@CLASSES
def test_no_product_is_made_of_more_rows(classes, device):
    hidden, weight, bias = leaves(device)
    one = 2 * LIVE * D * V
    options = LinearOptions(rows=6, classes=classes, live_rows=LIVE)
    with CountProducts(IMPLEMENTATIONS) as record:
        loss = linear_cross_entropy(
            hidden, weight, targets(device), linear_bias=bias, reduction="none", options=options
        )
    assert record.flop == one
    with CountProducts(IMPLEMENTATIONS) as record:
        loss.sum().backward()
    assert record.flop == 3 * one


@CLASSES
def test_statistics_whose_upstream_gradient_is_0_in_most_rows(classes, device):
    hidden, weight, bias = leaves(device)
    with torch.no_grad():
        hidden.nan_to_num_(1.0)
    upstream = torch.rand(N, device=device)
    upstream[DEAD] = 0
    results = []
    for most in (LIVE, None):
        options = LinearOptions(rows=6, classes=classes, live_rows=most)
        entropy = linear_softmax_stats(hidden, weight, linear_bias=bias, outputs=("entropy",), options=options).entropy
        results.append((entropy, *torch.autograd.grad(entropy, (hidden, weight, bias), upstream)))
    torch.testing.assert_close(*results)


def test_a_divergence_with_weights_of_0(device):
    hidden, weight, bias = leaves(device)
    ref = [torch.randn(shape, device=device) for shape in [(N, 5), (V, 5)]]
    token_weight = torch.rand(N, device=device)
    token_weight[DEAD] = 0
    results = []
    for most in (LIVE, LIVE + 3, None, LIVE - 1):
        options = LinearOptions(rows=6, live_rows=most)
        value = linear_kl_div(hidden, weight, *ref, linear_bias=bias, token_weight=token_weight, options=options)
        results.append((value, *torch.autograd.grad(value, (hidden, weight, bias))))
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])
    assert results[3][0].isnan()


def test_explain_counts_the_products_of_these_rows_alone():
    shapes = {"input": (4096, 768), "linear_weight": (50257, 768)}
    some, every = (
        sum(launch.flop for launch in explain("linear_cross_entropy", shapes, options=options).forward)
        for options in (LinearOptions(live_rows=1024), None)
    )
    assert 4 * some == every


def test_no_row_that_counts(device):
    hidden, weight, bias = leaves(device)
    target = torch.full((N,), -100, device=device)
    ours, expected = (
        loss_and_gradients((hidden, weight, bias), target, reduction="sum", options=LinearOptions(live_rows=most))
        for most in (0, None)
    )
    torch.testing.assert_close(ours, expected)


def test_a_number_below_0_is_an_error():
    with pytest.raises(ValueError, match=r"`live_rows` must be >= 0, or None .*, got -3"):
        LinearOptions(live_rows=-3)
