"""`OrthoGrad` around torch's optimizers, and the Grokfast filter."""

import copy
import pickle

import pytest
import torch
from support import long_double

import fluxcore
from fluxcore.optim import GrokfastEMA, OrthoAdamW, OrthoGrad, orthogonalize_
from fluxcore.reference.ortho import perpendicular


def two(make, dtype=torch.float32):
    torch.manual_seed(4)
    trained = [torch.nn.Parameter(torch.randn(40, 30).to(dtype)), torch.nn.Parameter(torch.randn(17).to(dtype))]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    return trained, make(trained)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("share", [1.0, 1e-4, 3e-6], ids=str)
def test_gradients_are_perpendicular_and_as_long_as_before(backend, share):
    weight = torch.randn(30_001)
    parameter = torch.nn.Parameter(weight.clone())
    gradient = (weight.double() + share * torch.randn(30_001, dtype=torch.float64)).float()
    parameter.grad = gradient.clone()
    with fluxcore.backend(backend):
        orthogonalize_([parameter, parameter])
    truth = long_double.perpendicular(long_double.exact(gradient), long_double.exact(weight).value)
    long_double.assert_rounded_once(parameter.grad, truth)
    assert parameter.grad.norm() == pytest.approx(float(gradient.norm()), rel=1e-6)
    assert torch.equal(parameter, weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_are_rounded_once(dtype):
    (first, _), _ = two(lambda trained: None, dtype)
    exact = perpendicular(first.grad, first.detach()).to(dtype)
    orthogonalize_([first])
    assert torch.equal(first.grad, exact)


def test_a_parallel_gradient_vanishes():
    parameter = torch.nn.Parameter(torch.randn(1000))
    parameter.grad = 5 * parameter.detach()
    length = parameter.grad.norm()
    orthogonalize_([parameter])
    assert parameter.grad.norm() < 1e-6 * length


def test_around_adamw_it_is_ortho_adamw():
    ours, fused = two(lambda trained: OrthoAdamW(trained, lr=0.01, weight_decay=0.1))
    theirs, wrapped = two(lambda trained: OrthoGrad(torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)))
    for _ in range(3):
        fused.step()
        wrapped.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
            b.grad.copy_(a.grad)  # OrthoGrad leaves the projected gradient there


def test_sgd_with_coupled_decay_and_a_closure():
    (parameter, _), wrapped = two(lambda trained: OrthoGrad(torch.optim.SGD(trained, lr=0.1, weight_decay=0.5)))
    weight = parameter.detach().clone()
    gradients = [torch.randn_like(weight)]

    def closure():
        parameter.grad = gradients[0].clone()
        return 7.0

    assert wrapped.step(closure) == 7.0
    exact = weight - 0.1 * (perpendicular(gradients[0], weight).float() + 0.5 * weight)
    torch.testing.assert_close(parameter.detach(), exact)


def test_it_shares_groups_and_state_with_its_base():
    trained, wrapped = two(lambda trained: OrthoGrad(torch.optim.AdamW(trained[:1], lr=1.0)))
    schedule = torch.optim.lr_scheduler.StepLR(wrapped, 1, gamma=0.1)
    wrapped.step()
    schedule.step()
    assert wrapped.base.param_groups[0]["lr"] == pytest.approx(0.1)
    wrapped.add_param_group({"params": [trained[1]]})
    assert len(wrapped.base.param_groups) == len(wrapped.param_groups) == 2
    assert wrapped.state[trained[0]] is wrapped.base.state[trained[0]]
    wrapped.zero_grad()
    assert trained[0].grad is None
    wrapped.step()  # nothing has a gradient


def test_state_dict_round_trip_and_pickle():
    trained, wrapped = two(lambda trained: OrthoGrad(torch.optim.AdamW(trained)))
    wrapped.step()
    others, resumed = two(lambda trained: OrthoGrad(torch.optim.AdamW(trained)))
    resumed.load_state_dict(copy.deepcopy(wrapped.state_dict()))
    assert torch.equal(resumed.state[others[0]]["exp_avg"], wrapped.state[trained[0]]["exp_avg"])
    assert resumed.state is resumed.base.state
    copied = pickle.loads(pickle.dumps(wrapped))
    assert copied.param_groups is copied.base.param_groups


def test_what_it_refuses():
    with pytest.raises(TypeError, match="`base` must be an optimizer, got list"):
        OrthoGrad([torch.ones(3)])
    layer = torch.nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        OrthoGrad(torch.optim.SGD(layer.parameters(), lr=0.1)).step()


def test_grokfast_adds_the_running_mean():
    parameter, still = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
    grokfast = GrokfastEMA([parameter, still, parameter], alpha=0.9, lamb=2.0)
    gradients = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([4.0, 0.0, -1.0])]
    mean = gradients[0]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        grokfast.filter_()
        mean = 0.9 * mean + 0.1 * gradient
        torch.testing.assert_close(parameter.grad, gradient + 2 * mean)
    assert still.grad is None
    resumed = GrokfastEMA([parameter, still], alpha=0.9, lamb=2.0)
    resumed.load_state_dict(grokfast.state_dict())
    parameter.grad = gradients[0].clone()
    resumed.filter_()
    torch.testing.assert_close(parameter.grad, gradients[0] + 2 * (0.9 * mean + 0.1 * gradients[0]))


def test_grokfast_refuses_bad_options_and_foreign_states():
    parameter = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"`alpha` must be within \[0, 1\), got 1.0"):
        GrokfastEMA([parameter], alpha=1.0)
    with pytest.raises(ValueError, match="`lamb` must be finite"):
        GrokfastEMA([parameter], lamb=float("inf"))
    with pytest.raises(ValueError, match="for number 5 of 1"):
        GrokfastEMA([parameter]).load_state_dict({"means": {5: torch.zeros(3)}})
