import math

import pytest
import torch
from torch import nn

from fluxcore.training.config import ConfigError
from fluxcore.training.optim import adamw
from fluxcore.training.schedule import ScheduleName, make_scheduler


def rates(name, **settings):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make_scheduler(optimizer, name, **settings)
    seen = []
    for _ in range(settings["steps"]):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", ScheduleName)
def test_shape(name):
    seen = rates(name, steps=10, warmup_steps=4, min_ratio=0.25)
    assert seen[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    share = [i / 6 for i in range(6)]
    expected = {
        "constant": [2.0] * 6,
        "linear": [2 * (0.25 + 0.75 * (1 - x)) for x in share],
        "cosine": [2 * (0.25 + 0.75 * (1 + math.cos(math.pi * x)) / 2) for x in share],
    }
    assert seen[4:] == pytest.approx(expected[name.name])


def test_no_warmup_starts_at_the_peak():
    assert rates(ScheduleName.linear, steps=2) == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize("warmup_steps", [10, 500])
def test_warmup_must_be_shorter_than_the_run(warmup_steps):
    with pytest.raises(
        ConfigError, match=f"`warmup_steps` must be shorter than the run of 10 steps, got {warmup_steps}"
    ):
        rates(ScheduleName.cosine, steps=10, warmup_steps=warmup_steps)


def test_decay_leaves_out_norms_and_biases():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    model.append(nn.Linear(3, 2, bias=False)).requires_grad_(True)
    model[3].weight.requires_grad_(False)
    decayed, plain = adamw(model, lr=0.1, weight_decay=0.5).param_groups
    assert decayed["weight_decay"] == 0.5
    assert plain["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[1].weight)}
    assert {id(p) for p in plain["params"]} == {id(model[1].bias), id(model[2].weight), id(model[2].bias)}
