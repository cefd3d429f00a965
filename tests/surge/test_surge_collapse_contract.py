"""Bad input to `SurgeCollapse` and its triggers; a step that raises leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn

from fluxcore.surge import Every, GradientNormBelow, LossPlateau, SurgeCollapse


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.ModuleDict({"embed": nn.Embedding(11, 16), "first": nn.Linear(16, 32), "second": nn.Linear(32, 16)})
    layers["head"] = nn.Linear(16, 11, bias=False)
    layers["head"].weight = layers["embed"].weight
    return layers


def test_a_step_that_raises_leaves_the_model(model):
    surge = SurgeCollapse(model, collapse=[Every(2)], surge=[Every(2)], regrow="gradient", scope="global")
    surge.step()
    before = copy.deepcopy(model.state_dict())
    model["first"].weight.grad = torch.randn_like(model["first"].weight)
    with pytest.raises(ValueError, match=r"got none for 'second.weight'"):
        surge.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(mask.all() for mask in surge.masks.values())


def test_a_step_that_raises_does_not_count(model):
    """Not even what momentum moved is put back to 0, nor has any trigger seen the step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = LossPlateau(2, smoothing=0.0)
    options = {"regrow": "gradient", "scope": "global", "drop_fraction": 0.5}
    surge = SurgeCollapse(model, optimizer, collapse=[Every(1, end=1)], surge=[plateau, Every(2)], **options)
    surge.step(1.0)
    with torch.no_grad():
        model["first"].weight.add_(1)
    before = copy.deepcopy((model.state_dict(), surge.state_dict()))
    for loss, message in ((1.0, "must have gradients"), (None, "`loss` must be given")):
        with pytest.raises(ValueError, match=message):
            surge.step(loss)
        assert all(torch.equal(before[0][name], value) for name, value in model.state_dict().items())
        assert surge.state_dict()["steps"] == 1
        assert surge.state_dict()["triggers"] == before[1]["triggers"]
    for parameter in surge.parameters.values():
        parameter.grad = torch.randn_like(parameter)
    assert surge.step(1.0).surged


def test_parameters_without_gradient_are_checked_before_the_others_change(model):
    surge = SurgeCollapse(
        model, torch.optim.Adam(model.parameters()), collapse=[Every(1)], surge=[Every(1)], regrow="gradient"
    )
    model["first"].weight.grad = torch.randn_like(model["first"].weight)
    surge.optimizer.state[model["second"].weight] = {"exp_avg": torch.zeros(16, 32, dtype=torch.int8)}
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match="'exp_avg' as plain numbers"):
        surge.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(mask.all() for mask in surge.masks.values())


def test_a_state_of_another_model_is_refused(model):
    surge = SurgeCollapse(model)
    state = SurgeCollapse(nn.Linear(4, 4)).state_dict()
    with pytest.raises(ValueError, match="must be of the parameters"):
        surge.load_state_dict(state)
    with pytest.raises(ValueError, match=r"one without .*'masks'"):
        surge.load_state_dict({"steps": 3})
    with pytest.raises(ValueError, match="must have 0 triggers, got 1"):
        surge.load_state_dict(SurgeCollapse(model, collapse=[Every(1)]).state_dict())


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
