"""The drop-in helpers against the float64 definition; their numerics are those of `softmax_stats`.

The gradient of the entropy is tested in test_peer_defects.py.
"""

import pytest
import torch

from fluxcore.ops.softmax_helpers import entropy_from_logits, logsumexp, selective_log_softmax


def test_the_chunk_size_changes_no_bit(device):
    logits = torch.randn(9, 50, device=device)
    for chunk_size in (1, 4, 1000):
        assert torch.equal(entropy_from_logits(logits, chunk_size), entropy_from_logits(logits))
    with pytest.raises(ValueError, match="`chunk_size` must be >= 1, or None, got 0"):
        entropy_from_logits(logits, 0)


def test_selective_log_softmax_of_one_class_or_several(device):
    logits = torch.randn(2, 5, 33, device=device, requires_grad=True)
    expected = logits.log_softmax(-1)
    for K in (1, 3):
        index = torch.randint(33, (2, 5, K), device=device)
        ours = selective_log_softmax(logits, index)
        torch.testing.assert_close(ours, expected.gather(-1, index))
        upstream = torch.randn_like(ours)
        gradients = [
            torch.autograd.grad(value, logits, upstream, retain_graph=True)[0]
            for value in (ours, expected.gather(-1, index))
        ]
        torch.testing.assert_close(*gradients)
    one = selective_log_softmax(logits, index[..., 0])
    assert torch.equal(one, selective_log_softmax(logits, index[..., :1])[..., 0])
    torch.testing.assert_close(one, selective_log_softmax(logits, index)[..., 0], rtol=1e-6, atol=0)
    assert selective_log_softmax(logits[0, 0], index[0, 0, 0]).shape == ()


def test_a_sure_class_keeps_its_log_probability(device):
    logits = torch.zeros(1, 50304, device=device)
    logits[0, 7] = 30
    sure = selective_log_softmax(logits, torch.tensor([[7, 8]], device=device))
    torch.testing.assert_close(sure[0, 0].item(), -50303 * 9.357622968840175e-14, rtol=1e-5, atol=0)


def by_columns(logits, index):
    """The op for one class a row, which has tests of its own, for each column."""
    return torch.stack([selective_log_softmax(logits, column) for column in index.unbind(-1)], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_classes_chosen_together_are_those_chosen_alone(dtype, device):
    logits = torch.randn(6, 40, device=device).to(dtype)
    logits[0, 3] = 25  # nearly sure: 1 - p is 1e-10 of p
    logits[1, 3] = -torch.inf
    logits[2] = 1.0  # ties
    logits[3] = -torch.inf
    logits[4, 7] = torch.nan
    logits.requires_grad_()
    index = torch.tensor([[3, 5, 3], [3, 0, 39], [0, 1, 0], [0, 1, 2], [7, 0, 1], [9, 9, 9]], device=device)
    ours, expected = selective_log_softmax(logits, index), by_columns(logits, index)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0, equal_nan=True)
    upstream = torch.randn(index.shape, device=device, dtype=ours.dtype)
    gradient, columns = (torch.autograd.grad(value, logits, upstream)[0] for value in (ours, expected))
    torch.testing.assert_close(gradient[:3], columns[:3], rtol=3 * torch.finfo(dtype).eps, atol=1e-7, equal_nan=True)
    torch.testing.assert_close(gradient[3:], columns[3:], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_of_a_sure_class_is_not_rounded_away(dtype, device):
    logits = torch.zeros(1, 1000, device=device, dtype=dtype)
    logits[0, 3] = 20
    logits.requires_grad_()
    index = torch.tensor([[3, 8, 3]], device=device)
    exact = logits.detach().double().requires_grad_()
    for upstream in ([1.0, 0.0, 2.0], [1.0, 0.25, -1.0]):
        upstream = torch.tensor([upstream], device=device)
        (ours,) = torch.autograd.grad(selective_log_softmax(logits, index), logits, upstream)
        value = exact.log_softmax(-1).gather(-1, index)
        (truth,) = torch.autograd.grad(value, exact, upstream.double())
        torch.testing.assert_close(ours.double(), truth, rtol=2 * torch.finfo(dtype).eps, atol=1e-12)


def test_a_class_outside_makes_its_log_probability_nan_and_its_row_s_gradient(device):
    logits = torch.randn(3, 9, device=device, requires_grad=True)
    index = torch.tensor([[0, 9], [-1, 2], [4, 5]], device=device)
    logprob = selective_log_softmax(logits, index)
    assert logprob.isnan().tolist() == [[False, True], [True, False], [False, False]]
    upstream = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], device=device)
    (gradient,) = torch.autograd.grad(logprob, logits, upstream)
    assert gradient.isnan().any(-1).tolist() == [True, False, False]


def test_several_classes_as_an_op(device):
    logits = torch.randn(4, 11, device=device, requires_grad=True)
    index = torch.randint(11, (4, 3), device=device)
    torch.library.opcheck(torch.ops.fluxcore.selective_log_softmax_fwd, (logits, index))
    double = logits.detach().double().requires_grad_()
    torch.autograd.gradcheck(lambda x: selective_log_softmax(x, index), double)
    (gradient,) = torch.autograd.grad(selective_log_softmax(logits, index).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.square().sum().backward()


def test_selective_log_softmax_names_what_is_wrong(device):
    logits = torch.randn(2, 5, device=device)
    with pytest.raises(ValueError, match=r"at least one class a row, got shape \(2, 0\)"):
        selective_log_softmax(logits, torch.zeros(2, 0, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match=r"without the classes, \(2,\), got \(3,\)"):
        selective_log_softmax(logits, torch.zeros(3, dtype=torch.int64, device=device))


def test_logsumexp(device):
    logits = torch.randn(4, 77, device=device, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(logsumexp(logits), logits.logsumexp(-1))
    torch.autograd.gradcheck(logsumexp, logits[:2, :5].detach().requires_grad_())
    assert logsumexp(torch.full((2, 3), -torch.inf, device=device)).eq(-torch.inf).all()
