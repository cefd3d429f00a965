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
    assert torch.equal(one, selective_log_softmax(logits, index)[..., 0])
    assert selective_log_softmax(logits[0, 0], index[0, 0, 0]).shape == ()


def test_a_sure_class_keeps_its_log_probability(device):
    logits = torch.zeros(1, 50304, device=device)
    logits[0, 7] = 30
    sure = selective_log_softmax(logits, torch.tensor([[7, 8]], device=device))
    torch.testing.assert_close(sure[0, 0].item(), -50303 * 9.357622968840175e-14, rtol=1e-5, atol=0)


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
