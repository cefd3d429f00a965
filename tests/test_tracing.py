"""Memory is found without taking it."""

import torch

from fluxcore.tracing import peak_bytes


def test_the_peak_is_that_of_tensors_alive_at_once():
    x = torch.empty(1000, 1000)
    assert peak_bytes(lambda x: x.exp(), x) == x.nbytes
    assert peak_bytes(lambda x: x.view(-1)[5:].t(), x) == 0
    assert peak_bytes(lambda x: x.exp().exp().exp(), x) == 2 * x.nbytes
    assert peak_bytes(lambda x: x.clone().mul_(2), x) == x.nbytes


def test_what_a_backward_pass_needs_stays_in_memory():
    x = torch.empty(1000, 1000, requires_grad=True)
    forward = peak_bytes(lambda x: x.exp().exp().sum(), x)
    both = peak_bytes(lambda x: torch.autograd.grad(x.exp().exp().sum(), x), x)
    assert forward - 2 * x.nbytes in range(1000)
    assert both - 3 * x.nbytes in range(1000)


def test_nothing_of_the_size_of_the_arguments_is_made():
    x = torch.empty(1, 1).expand(1 << 20, 1 << 20)
    assert peak_bytes(lambda x: x + 1, x) == 4 << 40
