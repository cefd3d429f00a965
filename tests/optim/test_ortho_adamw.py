"""`OrthoAdamW` against a float64 step from the same state."""

import copy

import pytest
import torch
from support import long_double

import fluxcore
from fluxcore.optim import OrthoAdamW, orthogonalize_
from fluxcore.reference.ortho import ortho_adamw_step, perpendicular

SHAPES = [(), (1,), (7,), (33, 65), (5, 17, 8), (40_001,)]


def parameters(dtype=torch.float32):
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def almost_parallel(weight, share):
    """A gradient of which `share` is perpendicular to the weight."""
    noise = torch.randn(weight.shape, dtype=torch.float64)
    return (3 * weight.double() + share * noise).to(weight.dtype)


@pytest.mark.parametrize("project", ["gradient", "update"])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("share", [1.0, 1e-3, 1e-6], ids=str)
def test_a_step_is_that_of_float64_rounded_once(project, backend, share):
    options = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-30, "weight_decay": 0.1}
    trained = parameters()
    optimizer = OrthoAdamW(trained, **options, project=project)
    for number in (1, 2, 3):
        exact = []
        for parameter in trained:
            parameter.grad = almost_parallel(parameter.detach(), share)
            state = optimizer.state.get(parameter) or {
                k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")
            }
            number_of_step = {"step": number, "project_update": project == "update"}
            arguments = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
            exact.append(long_double.ortho_adamw_step(*arguments, **number_of_step, **options))
        with fluxcore.backend(backend):
            optimizer.step()
        for parameter, truth in zip(trained, exact, strict=True):
            if parameter.numel() == 1:
                continue  # nothing but rounding is perpendicular to a single number
            state = optimizer.state[parameter]
            for found, expected in zip((parameter, state["exp_avg"], state["exp_avg_sq"]), truth, strict=True):
                long_double.assert_rounded_once(found, expected)


@pytest.mark.parametrize("isa", fluxcore._core.cpu_isas())
@pytest.mark.parametrize("project", ["gradient", "update"])
def test_every_instruction_set(isa, project, monkeypatch):
    monkeypatch.setenv("FLUXCORE_ISA", isa)
    parameter = torch.nn.Parameter(torch.randn(1003))
    parameter.grad = torch.randn(1003)
    exact, _, _ = ortho_adamw_step(
        parameter.detach(), parameter.grad, torch.zeros(1003), torch.zeros(1003),
        step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, project_update=project == "update",
    )  # fmt: skip
    OrthoAdamW([parameter], lr=0.1, project=project).step()
    torch.testing.assert_close(parameter.detach(), exact.float(), rtol=2e-7, atol=1e-8)


def test_weight_decay_survives_the_projection():
    weight = torch.randn(1000)
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = 2 * weight
    OrthoAdamW([parameter], lr=0.1, weight_decay=0.5, project="update").step()
    along = (parameter.detach() @ weight) / (weight @ weight)
    assert along == pytest.approx(0.95, abs=1e-6)


def test_update_is_perpendicular():
    weight = torch.randn(5000)
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = weight + 0.1 * torch.randn(5000)
    optimizer = OrthoAdamW([parameter], lr=1.0, project="update")
    optimizer.step()
    moved = parameter.detach().double() - weight.double()
    assert abs(moved @ weight.double()) < 1e-6 * moved.norm() * weight.norm()
    assert moved.norm() == pytest.approx(5000**0.5, rel=1e-5)  # Adam's first update has length 1 an element


def test_without_projection_it_is_adamw():
    ours = [torch.nn.Parameter(torch.zeros(100))]
    theirs = [torch.nn.Parameter(torch.zeros(100))]
    ours[0].grad = theirs[0].grad = torch.randn(100)
    OrthoAdamW(ours, lr=0.1).step()  # a weight of zeros takes nothing away
    torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(ours[0], theirs[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype):
    trained = [torch.nn.Parameter(torch.randn(64, 8).to(dtype))]
    trained[0].grad = torch.randn(64, 8).to(dtype)
    zeros = torch.zeros(64, 8)
    exact, m, _ = ortho_adamw_step(
        trained[0].detach(), trained[0].grad, zeros, zeros,
        step=1, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, project_update=False,
    )  # fmt: skip
    optimizer = OrthoAdamW(trained)
    optimizer.step()
    assert torch.equal(trained[0].detach(), exact.to(dtype))
    assert torch.equal(optimizer.state[trained[0]]["exp_avg"], m.to(dtype))


def test_strides_may_differ():
    weight, gradient = torch.randn(30, 20), torch.randn(30, 20)
    plain = torch.nn.Parameter(weight.clone())
    turned = torch.nn.Parameter(weight.t().contiguous().t())
    mixed = torch.nn.Parameter(weight.clone())
    plain.grad, turned.grad, mixed.grad = gradient, gradient.t().contiguous().t(), gradient.t().contiguous().t()
    OrthoAdamW([plain, turned, mixed], lr=0.1).step()
    torch.testing.assert_close(turned, plain)
    torch.testing.assert_close(mixed, plain)


def test_shared_parameters_step_once_and_those_without_gradient_stay():
    shared, other = torch.nn.Parameter(torch.randn(10)), torch.nn.Parameter(torch.randn(10))
    before = other.detach().clone()
    shared.grad = torch.randn(10)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = OrthoAdamW([shared, other, shared], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert optimizer.state[shared]["step"] == 1
    assert torch.equal(other, before)
    assert other not in optimizer.state


def test_state_dict_round_trip():
    trained = parameters()
    optimizer = OrthoAdamW(trained, lr=0.01, project="update")
    for _ in range(2):
        for parameter in trained:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    twin = [torch.nn.Parameter(parameter.detach().clone()) for parameter in trained]
    resumed = OrthoAdamW(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["project"] == "update"
    for parameter, other in zip(trained, twin, strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    optimizer.step()
    resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(trained, twin, strict=True))


def test_closure_and_schedule():
    parameter = torch.nn.Parameter(torch.randn(10))
    optimizer = OrthoAdamW([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (parameter - 1).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.step(closure) < first


def test_threads_do_not_matter():
    found = []
    for threads in (1, 2):
        torch.manual_seed(3)
        parameter = torch.nn.Parameter(torch.randn(200_001))
        parameter.grad = torch.randn(200_001)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            OrthoAdamW([parameter]).step()
        finally:
            torch.set_num_threads(before)
        found.append(parameter.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "`lr` must be finite and >= 0, got -1.0"),
        ({"eps": float("nan")}, "`eps` must be finite"),
        ({"weight_decay": float("inf")}, "`weight_decay` must be finite"),
        ({"betas": (0.9, 1.0)}, "`betas` must be two numbers"),
        ({"project": "both"}, "`project` must be one of gradient, update, got 'both'"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OrthoAdamW([torch.nn.Parameter(torch.ones(2))], **options)


def test_sparse_gradients_are_refused():
    layer = torch.nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="got a sparse one of shape"):
        OrthoAdamW(layer.parameters()).step()
    assert torch.equal(layer.weight, before)


def test_a_step_that_fails_changes_nothing():
    dense, layer = torch.nn.Parameter(torch.randn(10)), torch.nn.Embedding(5, 3, sparse=True)
    optimizer = OrthoAdamW([dense, layer.weight], lr=0.1, weight_decay=0.1)
    dense.grad = torch.randn(10)
    layer(torch.tensor([1])).sum().backward()
    before = dense.detach().clone()
    with pytest.raises(RuntimeError, match="got a sparse one"):
        optimizer.step()
    assert torch.equal(dense, before)
    assert optimizer.state[dense]["step"] == 0
    gradient = dense.grad.clone()
    with pytest.raises(RuntimeError, match="got a sparse one"):
        orthogonalize_([dense, layer.weight])
    assert torch.equal(dense.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # by kernels, and by PyTorch
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("exp_avg", torch.zeros(4, device="meta"), "'exp_avg' must be like its parameter, .* on meta"),
        ("exp_avg", torch.zeros(3), r"'exp_avg' must be like its parameter, \(4,\) on cpu, got \(3,\)"),
        ("exp_avg_sq", torch.zeros(4, dtype=torch.int32), "of torch.int32 on cpu"),
        ("exp_avg_sq", None, "must have a tensor 'exp_avg_sq', got exp_avg, exp_avg_sq, step"),
    ],
    ids=["device", "shape", "dtype", "missing"],
)
def test_a_state_that_does_not_fit_stops_the_step(dtype, name, value, message):
    """As after a model was moved, or another optimizer's state was loaded."""
    trained = [torch.nn.Parameter(torch.randn(4, dtype=dtype)) for _ in range(2)]
    optimizer = OrthoAdamW(trained, lr=0.1)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.state[trained[1]][name] = value
    before = copy.deepcopy((trained[0].detach(), optimizer.state[trained[0]]))
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(trained[0], before[0])
    assert all(torch.equal(optimizer.state[trained[0]][key], moment) for key, moment in before[1].items())


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_a_nan_weight_is_not_projected_along(backend):
    found = []
    for weight in ([1.0, float("nan"), 2.0], [1.0, 0.0, 2.0]):
        parameter = torch.nn.Parameter(torch.tensor(weight))
        parameter.grad = torch.tensor([1.0, -1.0, 3.0])
        optimizer = (
            OrthoAdamW([parameter], lr=0.1) if weight[1] else torch.optim.AdamW([parameter], 0.1, weight_decay=0)
        )
        with fluxcore.backend(backend):
            optimizer.step()
        found.append(parameter.detach()[[0, 2]])
        assert parameter[1].isnan() == (weight[1] != 0)
    torch.testing.assert_close(*found)


def test_perpendicular_of_special_cases():
    ones = torch.ones(4)
    assert torch.equal(perpendicular(ones, torch.zeros(4)), ones.double())
    assert perpendicular(torch.zeros(4), ones).abs().max() == 0
    assert perpendicular(3 * ones, ones).norm() < 1e-12
    assert perpendicular(torch.tensor([3.0]), torch.tensor([0.7])).abs() < 1e-12
