"""`SurgeCollapse` in a training loop."""

import copy

import pytest
import torch
from torch import nn

from fluxcore.surge import Every, GradientNormBelow, LossPlateau, SurgeCollapse, prunable_parameters


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.norm = nn.LayerNorm((4, 16))
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.second(self.first(self.norm(self.embed(tokens))).relu()))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny()


def train(model, optimizer, steps, surge=None, every_loss=None):
    reports = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        tokens = torch.randint(11, (8, 4), generator=generator)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if surge is not None:
            reports.append(surge.step(loss.detach() if every_loss is None else every_loss))
    return reports


def inactive(model, surge):
    return {name: ~mask for name, mask in surge.masks.items()}


def test_matrices_are_pruned_and_embeddings_norms_biases_are_not(model):
    assert list(prunable_parameters(model)) == ["first.weight", "second.weight"]
    model.first.weight.requires_grad_(False)
    assert list(prunable_parameters(model)) == ["second.weight"]


def test_collapse_holds_until_surge(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    surge = SurgeCollapse(model, optimizer, collapse=[Every(5, end=5)], surge=[Every(9, end=9)], drop_fraction=0.5)
    reports = train(model, optimizer, 12, surge)
    assert [i + 1 for i, report in enumerate(reports) if report is not None] == [5, 9]
    collapse, back = reports[4], reports[8]
    assert (collapse.collapsed, collapse.surged, collapse.density) == (True, False, 0.5)
    assert collapse.dropped == {"first.weight": 256, "second.weight": 256}
    assert collapse.reasons == ("Every",)
    assert (back.collapsed, back.surged, back.density) == (False, True, 1.0)
    assert back.regrown == {"first.weight": 256, "second.weight": 256}


def test_sparsity_holds_through_momentum_and_decay(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    surge = SurgeCollapse(model, optimizer, collapse=[Every(3, end=3)], drop_fraction=0.75)
    train(model, optimizer, 10, surge)
    for name, parameter in surge.parameters.items():
        assert int((parameter == 0).sum()) == 384
        assert (parameter[~surge.masks[name]] == 0).all()


def test_noise_has_the_scale_of_the_weights_at_the_beginning(model):
    with torch.no_grad():
        model.first.weight.mul_(100)
    std = model.first.weight.std()
    surge = SurgeCollapse(model, collapse=[Every(1, end=1)], surge=[Every(2)], drop_fraction=1.0)
    surge.step()
    assert (model.first.weight == 0).all()
    surge.step()
    assert float(model.first.weight.detach().std()) == pytest.approx(float(std.detach()), rel=0.15)
    assert model.second.weight.std() < 1


def test_collapse_and_surge_at_one_step_touch_different_weights(model):
    surge = SurgeCollapse(model, collapse=[Every(1)], surge=[Every(2)], drop_fraction=0.5, noise_scale="absolute")
    surge.step()
    before = {name: mask.clone() for name, mask in surge.masks.items()}
    report = surge.step()
    assert report.collapsed
    assert report.surged
    for name, mask in surge.masks.items():
        assert (mask[~before[name]]).all()  # what was inactive is back
        assert int((~mask).sum()) == 128  # half of the 256 that were active


def test_cosine_and_bounds(model):
    surge = SurgeCollapse(model, drop_fraction=0.4, cosine_steps=100)
    assert surge.fraction_at(0) == pytest.approx(0.4)
    assert surge.fraction_at(50) == pytest.approx(0.2)
    assert surge.fraction_at(100) == surge.fraction_at(1000) == 0
    every = Every(10, start=5, end=30)
    fired = [i for i in range(60) if every.fires(_signals(i))]
    assert fired == [15, 25]


def _signals(step, loss=None, parameters=()):
    from fluxcore.surge import Signals

    return Signals(step=step, loss=loss, parameters=parameters)


def test_gradient_regrowth_leaves_out_what_has_none(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surge = SurgeCollapse(model, optimizer, collapse=[Every(1, end=1)], surge=[Every(2)], regrow="gradient")
    surge.step()
    model.first.weight.grad = torch.randn_like(model.first.weight)
    report = surge.step()
    assert report.regrown == {"first.weight": 256, "second.weight": 0}
    assert report.active == {"first.weight": 512, "second.weight": 256}


def test_state_dict_resumes_exactly(model):
    def make(trained):
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01)
        return optimizer, SurgeCollapse(
            trained, optimizer, collapse=[Every(4), LossPlateau(3)], surge=[Every(6)], seed=5, noise_scale="current"
        )

    optimizer, surge = make(model)
    train(model, optimizer, 5, surge)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), surge.state_dict()))
    twin = Tiny()
    twin_optimizer, twin_surge = make(twin)
    twin.load_state_dict(saved[0])
    twin_optimizer.load_state_dict(saved[1])
    twin_surge.load_state_dict(saved[2])
    reports = train(model, optimizer, 8, surge)
    assert any(report is not None for report in reports)
    assert train(twin, twin_optimizer, 8, twin_surge) == reports
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_that_were_replaced_are_followed(model):
    surge = SurgeCollapse(model, collapse=[Every(1)])
    old = model.first.weight
    # What a move to some devices does.
    model.first.weight = nn.Parameter(old.detach().clone())
    surge.step()
    assert int((model.first.weight == 0).sum()) == 256
    assert int((old == 0).sum()) == 0
    model.first.weight = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"'first.weight' to have shape \(32, 16\), got \(3, 3\)"):
        surge.step()


def test_masks_follow_the_model_to_another_device(model):
    surge = SurgeCollapse(model, collapse=[Every(10)])
    model.to("meta")
    assert surge.step() is None
    assert surge.masks["first.weight"].device.type == "meta"
    assert surge.parameters["first.weight"] is model.first.weight


def test_plateau_and_gradient_norm():
    plateau = LossPlateau(2, smoothing=0.0)
    losses = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0]
    assert [plateau.fires(_signals(i, loss)) for i, loss in enumerate(losses)] == [
        False, False, False, True, False, False, True, False,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="`loss` must be given"):
        plateau.fires(_signals(1))
    parameter = nn.Parameter(torch.zeros(4))
    norm = GradientNormBelow(1.0)
    assert not norm.fires(_signals(1, parameters=[parameter]))
    parameter.grad = torch.full((4,), 0.49)
    assert norm.fires(_signals(1, parameters=[parameter]))
    parameter.grad = torch.full((4,), 0.51)
    assert not norm.fires(_signals(1, parameters=[parameter]))


def test_a_shared_parameter_counts_once(model):
    tied = {"embed.weight": model.embed.weight, "head.weight": model.head.weight}
    surge = SurgeCollapse(model, collapse=[Every(1)], drop_fraction=0.25, parameters=tied)
    report = surge.step()
    assert report.dropped == {"embed.weight": 44}
    assert report.density == 0.75
