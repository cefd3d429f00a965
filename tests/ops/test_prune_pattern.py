"""`prune_regrow_` to N of each M consecutive weights, against sorting each group, on every backend."""

import pytest
import torch
from support.devices import device_fixture

import fluxcore
from fluxcore.ops._prune_backends import BACKENDS
from fluxcore.ops.prune_regrow import prune_regrow_

device = device_fixture(BACKENDS)
# The Triton kernel takes M in and not in a tile of 1024; C++ has a way of its own for M = 4.
PATTERNS = [(2, 4), (1, 4), (4, 4), (1, 2), (3, 7), (2, 100)]


def rows(pattern):
    return {2: 50, 4: 24, 7: 6, 100: 3}[pattern[1]] * pattern[1]


def by_definition(weight, mask, keep, group):
    """Which weights are dropped: of each group the active ones but the largest, of equal ones the first."""
    size = torch.where(mask, weight.float().abs(), -1.0).nan_to_num(nan=torch.inf).reshape(-1, group)
    order = size.sort(dim=1, stable=True).indices
    dropped = torch.zeros_like(size, dtype=torch.bool).scatter_(1, order[:, : group - keep], True)
    return dropped.reshape(mask.shape) & mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p[0]}:{p[1]}")
def test_keeps_the_largest_of_each_group(device, pattern, dtype):
    keep, group = pattern
    weight = torch.randn(3, rows(pattern)).to(device, dtype)
    weight[0] = torch.randint(-2, 3, weight[0].shape, device=device)  # many equal ones
    weight[1, 5] = torch.nan
    mask = (torch.rand(weight.shape) < 0.8).to(device)
    expected = by_definition(weight.cpu(), mask.cpu(), keep, group)
    before, was_active, moment = weight.clone(), mask.clone(), torch.ones_like(weight)
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"momentum_buffer": moment}
    report = prune_regrow_(
        [parameter], drop_fraction=1 - keep / group, masks=[mask], scope=f"{keep}:{group}", optimizer=optimizer
    )
    gone = expected.to(device)
    assert torch.equal(mask, was_active & ~gone)
    assert (mask.reshape(-1, group).sum(1) <= keep).all()
    assert (weight[gone] == 0).all()
    assert torch.equal(weight[~gone].nan_to_num(), before[~gone].nan_to_num())
    assert torch.equal(moment == 0, gone)
    assert report.dropped.tolist() == [int(gone.sum())]
    assert report.active.tolist() == [int(mask.sum())]


def test_without_masks_and_again(device):
    weight = torch.randn(8, 16).to(device)
    prune_regrow_({"w": weight}, drop_fraction=0.5, scope="2:4")
    assert ((weight.reshape(-1, 4) != 0).sum(1) == 2).all()
    once = weight.clone()
    assert prune_regrow_({"w": weight}, drop_fraction=0.5, scope="2:4").dropped.tolist() == [64]  # two zeros of each
    assert torch.equal(weight, once)


def test_regrowth_is_by_tensor(device):
    weights = {"a": torch.randn(4, 40).to(device), "b": torch.randn(2, 8).to(device)}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    prune_regrow_(weights, drop_fraction=0.75, masks=masks, scope="1:4")
    report = prune_regrow_(weights, regrow="noise", regrow_fraction=0.5, noise_std=1.0, masks=masks, scope="1:4")
    assert report.dropped.tolist() == [0, 0]
    assert report.regrown.tolist() == [60, 6]
    assert report.active.tolist() == [100, 10]


def test_two_parts_end_as_the_whole(device):
    weight, mask = torch.randn(6000).to(device), (torch.rand(6000) < 0.7).to(device)
    parts = [(weight[:2004].clone(), mask[:2004].clone()), (weight[2004:].clone(), mask[2004:].clone())]
    options = {"drop_fraction": 0.5, "regrow": "noise", "noise_std": 0.1, "scope": "2:4"}
    whole = prune_regrow_({"w": weight}, regrow_fraction=0.3, masks={"w": mask}, **options)
    for (part, bits), offset in zip(parts, (0, 2004), strict=True):
        prune_regrow_({"w": part}, masks={"w": bits}, offsets={"w": offset}, cuts=whole.cuts, **options)
    assert torch.equal(torch.cat([part for part, _ in parts]), weight)
    assert torch.equal(torch.cat([bits for _, bits in parts]), mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "0:4"}, "1 <= N <= M <= 1024, got '0:4'"),
        ({"scope": "5:4"}, "got '5:4'"),
        ({"scope": "2:2048"}, "got '2:2048'"),
        ({"scope": "2:4:6"}, "N:M as in '2:4', got '2:4:6'"),
        ({"scope": "-2:4"}, "got '-2:4'"),
        ({"scope": "2:4", "drop_fraction": 0.3}, "`drop_fraction` must be 0, to drop nothing, or 0.5"),
        ({"scope": "2:5", "drop_fraction": 0.6}, r"last dim that 5 divides .* got shape \(3, 8\) for '0'"),
        ({"scope": "2:4", "offsets": {"0": 6}}, "multiples of 4 for scope '2:4', got 6 for '0'"),
    ],
    ids=str,
)
def test_what_it_refuses(options, message):
    weight = torch.randn(3, 8)
    before = weight.clone()
    with pytest.raises(ValueError, match=message):
        prune_regrow_([weight], **({"drop_fraction": 0.5} | options))
    with pytest.raises(ValueError, match=r"got shape \(\) for '0'"):
        prune_regrow_([torch.tensor(1.0)], drop_fraction=0.5, scope="2:4")
    assert torch.equal(weight, before)


def test_the_extension_checks_the_pattern():
    weight, cuts, counts = torch.ones(6), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)
    columns = ([weight.data_ptr()], ["float32"], [0], [0], [6], [0], [0])
    addresses = (cuts.data_ptr(), cuts.data_ptr(), "random", 0, [0.0])
    for keep, group, message in ((2, 4, "`group` must divide"), (3, 2, "got 3 of 2"), (1, 4096, "got 1 of 4096")):
        with pytest.raises(ValueError, match=message):
            fluxcore._core.prune_apply(columns, [], *addresses, keep, group, counts.data_ptr(), 1)
    assert weight.sum() == 6
