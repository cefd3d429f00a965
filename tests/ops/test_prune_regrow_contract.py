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
        ({"cuts": (torch.zeros(1, 2),)}, TypeError, "`cuts` must be two tensors, as in a report"),
        ({"drop_fraction": "half"}, TypeError, "`drop_fraction` must be a number, got 'half'"),
        ({"drop_fraction": True}, TypeError, "`drop_fraction` must be a number, got True"),
        ({"seed": 1.5}, TypeError, "`seed` must be a whole number, got 1.5"),
        ({"step": 1.5}, TypeError, "`step` must be a whole number, got 1.5"),
        ({"scope": None}, ValueError, "`scope` must be one of tensor, global, or N:M .* got None"),
        ({"offsets": [3]}, TypeError, "`offsets` must be a mapping of names, got list"),
        ({"optimizer": torch.optim.SGD}, TypeError, "`optimizer` must be a torch.optim.Optimizer or None"),
        ({"masks": [[True] * 4]}, TypeError, "`masks` must hold tensors, got list for '0'"),
        ({"masks": [ONES[:1].expand(4)]}, ValueError, r"'0' expanded to \(4,\)"),
    ],
    ids=str,
)
def test_bad_options(options, error, message):
    weight = torch.arange(1.0, 5.0)
    with pytest.raises(error, match=message):
        prune_regrow_([weight], **({"drop_fraction": 0.5} | options))
    assert weight.tolist() == [1, 2, 3, 4]
    assert ONES.all()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (None, TypeError, "got NoneType"),
        (torch.ones(4), TypeError, r"got a tensor\n\nPass \[tensor\]"),
        (torch.nn.Linear(2, 2), TypeError, r"got the module Linear\n\nPass dict\(model.named_parameters\(\)\)"),
        ([torch.ones(1).expand(4)], ValueError, r"'0' expanded to \(4,\)"),
        ([torch.ones(4, dtype=torch.int32)], TypeError, "got torch.int32 for '0'"),
    ],
    ids=["nothing", "a tensor", "a module", "expanded", "integers"],
)
def test_bad_params(params, error, message):
    with pytest.raises(error, match=message):
        prune_regrow_(params, drop_fraction=0.5)


def test_tensors_before_one_that_is_refused_stay():
    transposed = torch.arange(1.0, 5.0).reshape(2, 2).t()  # worked on as a copy, which is written back
    before = transposed.clone()
    with pytest.raises(ValueError, match="'1' expanded"):
        prune_regrow_([transposed, torch.ones(1).expand(4)], drop_fraction=0.5)
    assert torch.equal(transposed, before)


def test_masks_that_share_memory_are_refused():
    """Two tensors would each see what the other dropped."""
    mask = torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="`masks` must not share memory"):
        prune_regrow_([torch.ones(4), torch.ones(4)], drop_fraction=0.5, masks=[mask, mask])
    assert mask.all()


def test_sparse_gradients_are_refused():
    layer = torch.nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    masks = [torch.zeros(5, 3, dtype=torch.bool)]
    with pytest.raises(ValueError, match=r"must have dense gradients, got one of torch.sparse_coo for '0'"):
        prune_regrow_([layer.weight], regrow="gradient", regrow_fraction=1.0, masks=masks)


def test_names_need_not_be_strings():
    weight = torch.nn.Parameter(torch.randn(8))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    masks = {3: torch.ones(8, dtype=torch.bool)}
    report = prune_regrow_({3: weight}, drop_fraction=0.5, masks=masks, optimizer=optimizer)
    assert report.names == ("3",)
    assert int(masks[3].sum()) == 4


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
