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


def test_a_step_that_raises_leaves_the_model(model):
    surge = SurgeCollapse(model, collapse=[Every(2)], surge=[Every(2)], regrow="gradient", scope="global")
    surge.step()
    before = copy.deepcopy(model.state_dict())
    model.first.weight.grad = torch.randn_like(model.first.weight)
    with pytest.raises(ValueError, match=r"got none for 'second.weight'"):
        surge.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(mask.all() for mask in surge.masks.values())


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


def test_a_state_of_another_model_is_refused(model):
    surge = SurgeCollapse(model)
    state = SurgeCollapse(nn.Linear(4, 4)).state_dict()
    with pytest.raises(ValueError, match="must be of the parameters"):
        surge.load_state_dict(state)
    with pytest.raises(ValueError, match="must have 0 triggers, got 1"):
        surge.load_state_dict(SurgeCollapse(model, collapse=[Every(1)]).state_dict())


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_fraction": 2.0}, r"`drop_fraction` must be within \[0, 1\], got 2.0"),
        ({"regrow_fraction": -1.0}, "`regrow_fraction` must be within"),
        ({"regrow": "hope"}, "`regrow` must be one of"),
        ({"noise_scale": "big"}, "`noise_scale` must be one of init, current, absolute, got 'big'"),
        ({"noise_std": -0.1}, "`noise_std` must be finite and >= 0, got -0.1"),
        ({"cosine_steps": 0}, "`cosine_steps` must be >= 1"),
        ({"scope": "row"}, "`scope` must be one of tensor, global, got 'row'"),
        ({"scope": "2:4"}, r"got '2:4'\n\nA pattern has no drop fraction .* scope='2:4'"),
        ({"drop_fraction": float("nan")}, "`drop_fraction` must be within .* got nan"),
        ({"noise_std": float("inf")}, "`noise_std` must be finite and >= 0, got inf"),
        ({"seed": -1}, "`seed` must be within"),
        ({"seed": 1 << 64}, "`seed` must be within"),
        ({"regrow": "none", "surge": [Every(1)]}, "`surge` must be empty"),
        ({"parameters": {}}, "must have weights to prune, got none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_bad_options(model, options, message):
    with pytest.raises(ValueError, match=message):
        SurgeCollapse(model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_fraction": "half"}, "`drop_fraction` must be a number, got 'half'"),
        ({"noise_std": None}, "`noise_std` must be a number, got None"),
        ({"cosine_steps": 10.5}, "`cosine_steps` must be a whole number, got 10.5"),
        ({"seed": 0.5}, "`seed` must be a whole number, got 0.5"),
        ({"collapse": Every(3)}, r"`collapse` must be a list of triggers, got Every\n\nFor example collapse="),
        ({"surge": [200]}, "`surge` must hold triggers, objects with `fires`, got 200"),
        ({"collapse": [Every]}, "`collapse` must hold triggers"),
        ({"optimizer": torch.optim.SGD}, "`optimizer` must be a torch.optim.Optimizer or None, got a class"),
        ({"parameters": [torch.ones(2, 2)]}, "`parameters` must be a mapping of names, got list"),
        ({"parameters": {"ids": torch.ones(3, dtype=torch.int64)}}, "got torch.int64 for 'ids'"),
    ],
    ids=lambda case: case if isinstance(case, str) else next(iter(case)),  # no object, which is named by its address
)
def test_options_of_another_type(model, options, message):
    with pytest.raises(TypeError, match=message):
        SurgeCollapse(model, **options)
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got dict"):
        SurgeCollapse(dict(model.state_dict()))


def test_a_shared_parameter_counts_once(model):
    tied = {"embed.weight": model.embed.weight, "head.weight": model.head.weight}
    surge = SurgeCollapse(model, collapse=[Every(1)], drop_fraction=0.25, parameters=tied)
    report = surge.step()
    assert report.dropped == {"embed.weight": 44}
    assert report.density == 0.75


def test_what_has_no_magnitude_to_choose_by():
    """A tensor of no element, of one, and of zeros alone; and a NaN, which goes last."""
    weights = {"none": torch.empty(0), "one": torch.ones(1), "zeros": torch.zeros(8), "nan": torch.ones(8)}
    weights["nan"][0] = torch.nan
    parameters = {name: nn.Parameter(weight) for name, weight in weights.items()}
    surge = SurgeCollapse(nn.ParameterDict(parameters), collapse=[Every(1)], surge=[Every(2)], parameters=parameters)
    assert surge.step().dropped == {"none": 0, "one": 0, "zeros": 4, "nan": 4}
    assert not surge.masks["zeros"][:4].any()
    assert parameters["nan"][0].isnan()
    assert surge.step().regrown == {"none": 0, "one": 0, "zeros": 4, "nan": 4}
    assert (parameters["zeros"][:4] == 0).all()  # noise on the scale of zeros


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(0), "`interval` must be >= 1"),
        (lambda: Every(1, start=-1), "`start` must be >= 0"),
        (lambda: LossPlateau(0), "`patience` must be >= 1"),
        (lambda: LossPlateau(1, min_delta=-1), "`min_delta`"),
        (lambda: LossPlateau(1, smoothing=1.0), "`smoothing`"),
        (lambda: GradientNormBelow(0.0), "`bound` must be > 0"),
    ],
)
def test_bad_triggers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
