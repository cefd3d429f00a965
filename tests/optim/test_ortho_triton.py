"""The perpendicular step of many tensors at once in Triton, against one in long double; small for the interpreter."""

import pytest
import torch
from fluxcore.kernels.ortho import CHUNK
from support import long_double

import fluxcore
from fluxcore.optim import OrthoAdamW, orthogonalize_
from fluxcore.optim._lists import backend_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-30, "weight_decay": 0.1}
SHAPES = [(7,), (0,), (33, 65), (CHUNK,), (CHUNK + 1025,)]


@pytest.fixture(autouse=True)
def _triton():
    with fluxcore.backend("triton"):
        yield


def parameters():
    """Of every shape; the last two begin inside a 16-byte vector."""
    found = [torch.nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in SHAPES]
    odd = torch.randn(2 * CHUNK, device=DEVICE)
    return [*found, torch.nn.Parameter(odd[1:1002]), torch.nn.Parameter(odd[1003 : 1003 + 12])]


def with_gradients(trained, share):
    """Gradients of which `share` is perpendicular to the weights."""
    for parameter in trained:
        noise = torch.randn(parameter.shape, dtype=torch.float64, device=DEVICE)
        parameter.grad = (3 * parameter.detach().double() + share * noise).float()
    return trained


def on_cpu(parameter, optimizer):
    state = optimizer.state.get(parameter) or {}
    moments = (state.get(name, torch.zeros_like(parameter)) for name in ("exp_avg", "exp_avg_sq"))
    return [x.detach().cpu().clone() for x in (parameter, parameter.grad, *moments)]


@pytest.mark.parametrize("project", ["gradient", "update"])
@pytest.mark.parametrize("share", [1.0, 1e-6], ids=str)
def test_a_step_is_that_of_float64_rounded_once(project, share):
    trained = parameters()
    groups = [{"params": trained[:3]}, {"params": trained[3:], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = OrthoAdamW(groups, **OPTIONS, project=project)
    assert all(backend_for(parameter) == "triton" for parameter in trained)
    for step in (1, 2):
        with_gradients(trained, share)
        options = [
            OPTIONS | {k: group[k] for k in OPTIONS} for group in optimizer.param_groups for _ in group["params"]
        ]
        exact = [
            long_double.ortho_adamw_step(
                *on_cpu(parameter, optimizer), step=step, project_update=project == "update", **chosen
            )
            if parameter.numel()
            else None
            for parameter, chosen in zip(trained, options, strict=True)
        ]
        optimizer.step()
        for parameter, truth in zip(trained, exact, strict=True):
            if truth is None:
                continue
            state = optimizer.state[parameter]
            for found, expected in zip((parameter, state["exp_avg"], state["exp_avg_sq"]), truth, strict=True):
                long_double.assert_rounded_once(found.cpu(), expected)


@pytest.mark.parametrize("share", [1.0, 3e-6], ids=str)
def test_gradients_are_perpendicular_and_as_long_as_before(share):
    trained = with_gradients([x for x in parameters() if x.numel()], share)
    before = [(x.detach().cpu().clone(), x.grad.cpu().clone()) for x in trained]
    orthogonalize_(trained)
    for parameter, (weight, gradient) in zip(trained, before, strict=True):
        truth = long_double.perpendicular(long_double.exact(gradient), long_double.exact(weight).value)
        long_double.assert_rounded_once(parameter.grad.cpu(), truth)
        assert torch.equal(parameter.detach().cpu(), weight)


def test_tensors_do_not_depend_on_those_beside_them():
    results = []
    for together in (True, False):
        torch.manual_seed(3)
        trained = with_gradients(parameters(), 0.5)
        for part in [trained] if together else [[parameter] for parameter in trained]:
            OrthoAdamW(part, **OPTIONS).step()
        results.append(trained)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_weights_and_gradients_of_zeros_stay_finite():
    weights = [torch.zeros(300, device=DEVICE), torch.randn(300, device=DEVICE), torch.randn(1, device=DEVICE)]
    trained = [torch.nn.Parameter(weight.clone()) for weight in weights]
    trained[0].grad, trained[1].grad = torch.randn(300, device=DEVICE), torch.zeros(300, device=DEVICE)
    trained[2].grad = torch.ones(1, device=DEVICE)
    gradient = trained[0].grad.clone()
    orthogonalize_(trained)
    assert torch.equal(trained[0].grad, gradient)  # a weight of zeros takes nothing away
    assert not trained[1].grad.any()
    assert trained[2].grad.abs() < 1e-12  # nothing is perpendicular to a single number
    OrthoAdamW(trained, lr=0.1).step()
    assert torch.equal(trained[1], weights[1])
    assert all(parameter.isfinite().all() for parameter in trained)
