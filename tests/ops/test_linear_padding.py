"""Columns behind all classes, which make rows of logits begin 64 bytes apart: nothing may be seen of them."""

import pytest
import torch
from support.devices import device_fixture

from fluxcore import LinearOptions, Sharpness, cross_entropy, linear_cross_entropy, linear_softmax_stats, softmax_stats
from fluxcore.ops._cross_entropy_backends import BACKENDS
from fluxcore.ops._linear_schedule import Passes, padding_columns

device = device_fixture(BACKENDS)
N, D, V = 6, 8, 1601
LOSSES = [
    {"reduction": "none"},
    {"lse_square_scale": 1e-3, "softcap": 20.0},
    {"penalty": Sharpness("neg_entropy", 0.3), "temperature": 0.7},
    {"penalty": Sharpness("non_max_sum", 0.3), "reduction": "token_mean"},
    {"penalty": Sharpness("neg_max_prob", 0.3), "reduction": "sum"},
]


def leaves(device):
    tensors = [torch.randn(shape, device=device) for shape in [(N, D), (V, D), (V,)]]
    return [tensor.requires_grad_() for tensor in tensors]


def logits_of(tensors):
    hidden, weight, bias = tensors
    return torch.nn.functional.linear(hidden, weight, bias)


def test_there_is_padding():
    assert padding_columns(V, torch.float32, Passes(True, True, mergeable=True)) == 15
    assert padding_columns(V, torch.float32, Passes(True, True, mergeable=False)) == 0
    assert padding_columns(1600, torch.float32, Passes(True, True, mergeable=True)) == 0
    assert padding_columns(101, torch.float32, Passes(True, True, mergeable=True)) == 0  # too much of a row


@pytest.mark.parametrize("options", LOSSES, ids=lambda options: "-".join(options))
def test_losses_and_gradients(options, device):
    tensors, target = leaves(device), torch.tensor([0, V - 1, 7, -100, 1590, 3], device=device)
    weight = torch.rand(V, device=device)
    linear = linear_cross_entropy(
        *tensors[:2], target, linear_bias=tensors[2], weight=weight, options=LinearOptions(rows=4), **options
    )
    expected = cross_entropy(logits_of(tensors), target, weight=weight, **options)
    torch.testing.assert_close(linear, expected)
    ours, theirs = (torch.autograd.grad(loss.sum(), tensors) for loss in (linear, expected))
    torch.testing.assert_close(ours, theirs)


def test_what_is_no_class_is_in_no_column(device):
    tensors = leaves(device)
    target = torch.tensor([V, V + 3, V + 14, V + 15, V + 16, 5], device=device)
    loss = linear_cross_entropy(
        *tensors[:2],
        target,
        linear_bias=tensors[2],
        reduction="none",
        ignore_index=V + 3,
        options=LinearOptions(rows=4),
    )
    expected = cross_entropy(logits_of(tensors), target, reduction="none", ignore_index=V + 3)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    assert loss.isnan().tolist() == [True, False, True, True, True, False]
    assert loss[1] == 0


def test_statistics(device):
    names = ("lse", "entropy", "varentropy", "max_prob", "one_minus_max_prob", "logprob", "argmax")
    tensors, target = leaves(device), torch.tensor([0, V - 1, V + 2, 5, 6, 7], device=device)
    options = LinearOptions(rows=4)
    ours = linear_softmax_stats(*tensors[:2], target, linear_bias=tensors[2], outputs=names, options=options)
    theirs = softmax_stats(logits_of(tensors), target, outputs=names)
    for name in names:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), equal_nan=True)
    pairs = [(s.entropy + s.logprob.nan_to_num() + s.varentropy).sum() for s in (ours, theirs)]
    torch.testing.assert_close(*(torch.autograd.grad(value, tensors) for value in pairs))
