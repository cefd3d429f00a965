import pytest
import torch
from torch import nn

from fluxcore.training.early_stopping import EarlyStopping, StopConfig
from fluxcore.training.optimizer_config import OptimizerConfig
from fluxcore.training.reduce_on_plateau import ReduceConfig, ReduceOnPlateau
from fluxcore.training.schedule import ScheduleName, make_scheduler
from fluxcore.training.surge_config import SurgeConfig

KINDS = {
    "adamw": {},
    "ortho_adamw": {"kind": "ortho_adamw"},
    "ortho_adamw by update": {"kind": "ortho_adamw", "project": "update"},
    "ortho_grad of adamw": {"kind": "ortho_grad"},
    "ortho_grad of sgd": {"kind": "ortho_grad", "base": "sgd", "momentum": 0.9},
    "sgd": {"kind": "sgd"},
}


def make(name, model, **settings):
    settings = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.9, 0.99), **settings}
    return OptimizerConfig(**KINDS[name]).make(model, **settings)


@pytest.mark.parametrize("name", KINDS)
def test_decay_is_not_projected_away_and_leaves_biases_alone(name):
    model = nn.Linear(6, 5)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = make(name, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, 0.95 * before["weight"])
    assert torch.equal(model.bias, before["bias"])


@pytest.mark.parametrize("name", ["ortho_adamw by update", "ortho_grad of sgd"])
def test_steps_are_perpendicular_to_the_weights(name):
    model = nn.Linear(60, 50, bias=False)
    before = model.weight.detach().double().clone()
    optimizer = make(name, model, weight_decay=0.0, lr=1e-3)
    model.weight.grad = torch.randn_like(model.weight) + 3 * model.weight.detach()
    optimizer.step()
    step = model.weight.detach().double() - before
    assert step.norm() > 0
    assert abs(float((step * before).sum() / step.norm() / before.norm())) < 1e-4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eps": -1.0}, "`optimizer.eps` must be finite and >= 0, got -1.0"),
        ({"momentum": 1.0}, r"`optimizer.momentum` must be within \[0, 1\), got 1.0"),
        ({"grokfast_alpha": 1.0}, r"`optimizer.grokfast_alpha` must be within \[0, 1\), got 1.0"),
        ({"grokfast_lambda": float("inf")}, "`optimizer.grokfast_lambda` must be finite, got inf"),
        ({"kind": "adam"}, "`kind` must be one of adamw, ortho_adamw, ortho_grad, sgd, got 'adam'"),
    ],
)
def test_optimizer_keys_are_checked(keys, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"drop_fraction": 1.5}, r"`surge.drop_fraction` must be within \[0, 1\], got 1.5"),
        ({"collapse_every": 0}, "`surge.collapse_every` must be >= 1 step, got 0"),
        ({"noise_std": float("nan")}, "`surge.noise_std` must be finite and >= 0, got nan"),
        ({"gradient_norm": 0.0}, "`surge.gradient_norm` must be > 0, got 0.0"),
        ({"surge_on": ["every"]}, "`surge.surge_on` needs something to bring back"),
        ({"collapse_on": ["entropy_below"]}, "`surge.entropy_layers` must name modules for entropy_below, got none"),
        ({"collapse_on": ["sometimes"]}, "`collapse_on` must be one of every, .*, got"),
        ({"scope": "local"}, "`scope` must be one of tensor, global, got 'local'"),
    ],
)
def test_surge_keys_are_checked(keys, message):
    with pytest.raises(ValueError, match=message):
        SurgeConfig(**keys)


def test_no_trigger_means_no_surge():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert SurgeConfig().make(model, optimizer, steps=5, seed=0, mean_over_ranks=lambda x: x) is None


def test_entropy_is_averaged_over_the_ranks_before_it_is_compared():
    model = nn.Sequential(nn.Linear(4, 8))
    config = SurgeConfig(collapse_on=["entropy_above"], entropy_layers=["0"], entropy_above=0.4)
    fired = []
    for other in (0.0, 1.0):  # what another rank measures
        surge = config.make(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            steps=5,
            seed=0,
            mean_over_ranks=lambda mine, other=other: (0 * mine + other) / 2,
        )
        model(torch.randn(3, 4))
        fired.append(surge.step(0.0) is not None)
    assert fired == [False, True]


def stopping(values, **keys):
    stopper = EarlyStopping(StopConfig(**keys))
    metric = keys.get("metric", "loss")
    return [stopper.observe({metric: value}) for value in values]


def test_early_stopping():
    assert stopping([3, 2, 2, 1, 1.5, 1.2], patience=2) == [False, False, False, False, False, True]
    assert stopping([0.1, 0.5, 0.9, 0.99], metric="accuracy", at=0.95) == [False, False, False, True]
    assert stopping([0.5, 0.4, 0.3], metric="accuracy", patience=2) == [False, False, True]
    assert stopping([float("nan")] * 3, patience=3) == [False, False, True]
    assert stopping([1.0] * 50) == [False] * 50
    assert stopping([3, 2.95, 2.9], patience=2, min_delta=0.2) == [False, False, True]


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        (StopConfig, {"patience": 0}, "`stop.patience` must be >= 1 validation, got 0"),
        (StopConfig, {"min_delta": -1.0}, "`stop.min_delta` must be >= 0, got -1.0"),
        (StopConfig, {"metric": "f1"}, "`metric` must be one of loss, accuracy, got 'f1'"),
        (ReduceConfig, {"factor": 1.0}, r"`reduce_lr.factor` must be within \(0, 1\), got 1.0"),
        (ReduceConfig, {"min_lr": -1.0}, "`reduce_lr.min_lr` must be >= 0, got -1.0"),
    ],
)
def test_stopping_keys_are_checked(config, keys, message):
    with pytest.raises(ValueError, match=message):
        config(**keys)


@pytest.mark.parametrize("schedule", ScheduleName)
def test_a_plateau_scales_any_schedule_from_the_next_step_on(schedule):
    def rates(factor):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = make_scheduler(optimizer, schedule, steps=20, warmup_steps=3)
        reducer = ReduceOnPlateau(scheduler, ReduceConfig(factor=factor, patience=2))
        seen = []
        for step in range(20):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            if step in (4, 6, 8):
                reducer.observe({"loss": 1.0})  # better than nothing, then twice no better
        return seen

    plain, reduced = rates(None), rates(0.25)
    assert reduced[:9] == pytest.approx(plain[:9])
    assert reduced[9:] == pytest.approx([0.25 * rate for rate in plain[9:]])
