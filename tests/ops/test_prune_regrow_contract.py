"""Bad input to `prune_regrow_` leaves everything as it was; its ops are registered as torch wants them."""

import pytest
import torch

import fluxcore
from fluxcore.ops.prune_regrow import prune_regrow_

ONES = torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drop_fraction": 1.5}, ValueError, r"`drop_fraction` must be within \[0, 1\], got 1.5"),
        ({"drop_fraction": -0.1}, ValueError, "got -0.1"),
        ({"drop_fraction": float("nan")}, ValueError, "got nan"),
        ({"regrow": "magic"}, ValueError, "`regrow` must be one of"),
        ({"regrow": "noise", "regrow_fraction": 0.5, "masks": [ONES]}, ValueError, "`noise_std` must be given"),
        ({"regrow": "noise", "noise_std": -1.0, "masks": [ONES]}, ValueError, "finite and >= 0, got -1.0 for '0'"),
        ({"regrow": "noise", "noise_std": {"x": 1.0}, "masks": [ONES]}, ValueError, "number for every tensor"),
        ({"regrow": "random", "regrow_fraction": 0.5}, ValueError, "`masks` must be given"),
        ({"regrow_fraction": 0.5}, ValueError, '`regrow_fraction` must be 0 for `regrow="none"`, got 0.5'),
        ({"regrow": "gradient", "regrow_fraction": 0.5, "masks": [ONES]}, ValueError, "got none for '0'"),
        ({"masks": [ONES[:2]]}, ValueError, r"shape of the weight, \(4,\), got \(2,\)"),
        ({"masks": [ONES.float()]}, TypeError, "`masks` must be bool, got torch.float32"),
        ({"masks": {"other": ONES}}, ValueError, "got none for '0'"),
        ({"masks": [ONES.to("meta")]}, ValueError, "mask.to"),
        ({"seed": -1}, ValueError, "`seed` must be within"),
        ({"step": -1}, ValueError, "`step` must be within"),
        ({"scope": "layer"}, ValueError, "`scope` must be one of"),
        ({"offsets": {"0": -5}}, ValueError, "got -5 for '0'"),
        ({"cuts": (torch.zeros(1, 3), torch.zeros(1, 2))}, ValueError, "`cuts` must be two tensors"),
    ],
    ids=str,
)
def test_bad_options(options, error, message):
    weight = torch.arange(1.0, 5.0)
    with pytest.raises(error, match=message):
        prune_regrow_([weight], **({"drop_fraction": 0.5} | options))
    assert weight.tolist() == [1, 2, 3, 4]
    assert ONES.all()


def test_a_moment_that_cannot_be_reset_stops_the_call():
    parameter = torch.nn.Parameter(torch.arange(1.0, 5.0))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"momentum_buffer": torch.ones(4, dtype=torch.int8)}
    with pytest.raises(TypeError, match="'momentum_buffer' as plain numbers"):
        prune_regrow_([parameter], drop_fraction=0.5, optimizer=optimizer)
    optimizer.state[parameter] = {"momentum_buffer": torch.ones(4, device="meta")}
    with pytest.raises(ValueError, match="on the device of the weight"):
        prune_regrow_([parameter], drop_fraction=0.5, optimizer=optimizer)
    assert parameter.tolist() == [1, 2, 3, 4]


def test_a_list_may_be_a_generator():
    layer = torch.nn.Linear(10, 10)
    report = prune_regrow_(layer.parameters(), drop_fraction=0.5)
    assert report.names == ("0", "1")
    assert report.dropped.tolist() == [50, 5]


def test_registration():
    weights, masks = [torch.randn(300), torch.randn(4, 5)], [torch.rand(300) < 0.5, torch.rand(4, 5) < 0.5]
    gradients = [torch.randn(300), torch.randn(4, 5)]
    places = ([0, 7], [1, -2], 3)
    torch.library.opcheck(torch.ops.fluxcore.prune_cuts, (weights, masks, gradients, "gradient", 0.5, False, *places))
    drop = torch.ops.fluxcore.prune_cuts(weights, masks, [], "magnitude", 0.5, True, *places)
    grown = torch.ops.fluxcore.prune_cuts(weights, masks, [], "random", 0.5, True, *places)
    states = [torch.randn(4, 5)]
    for pattern in ((), (2, 5)):
        torch.library.opcheck(
            torch.ops.fluxcore.prune_apply_,
            (weights, masks, states, [1], [], drop, grown, "random", [0.5, 0.0], [0, 5], *places[1:], *pattern),
        )


def test_compiled_as_eager():
    """A step of training, pruning included, is one graph."""

    def step(weight, mask, gradient, places):
        weight = weight - 0.1 * gradient
        drop = torch.ops.fluxcore.prune_cuts([weight], [mask], [], "magnitude", 0.5, True, *places)
        grown = torch.ops.fluxcore.prune_cuts([weight], [mask], [gradient], "gradient", 0.25, True, *places)
        counts = torch.ops.fluxcore.prune_apply_(
            [weight], [mask], [], [], [gradient], drop, grown, "gradient", [0.0], *places
        )
        return weight * 2, counts, torch.ops.fluxcore.kth_magnitude([weight], [30], False)

    places = ([0], [5], 3)
    weight, gradient, mask = torch.randn(40, 3), torch.randn(40, 3), torch.rand(40, 3) < 0.6
    masks = [mask.clone(), mask.clone()]
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(weight, masks[0], gradient, places)
    expected = step(weight, masks[1], gradient, places)
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], mask)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_extension_refuses_what_it_cannot_do():
    weight, cuts = torch.ones(4, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64)
    columns = ([weight.data_ptr()], ["float64"], [0], [0], [4], [0], [0])
    with pytest.raises(ValueError, match="got `float64`"):
        fluxcore._core.select_smallest(columns, "magnitude", 0, True, 0.5, [], True, cuts.data_ptr(), 1)
    with pytest.raises(ValueError, match="`kind` must be one of"):
        fluxcore._core.select_smallest(columns, "size", 0, True, 0.5, [], True, cuts.data_ptr(), 1)
