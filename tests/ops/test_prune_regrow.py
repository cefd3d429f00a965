"""`prune_regrow_` against a definition written out in NumPy-like steps, on every backend."""

import pytest
import torch
from support.devices import device_fixture

from fluxcore.ops._prune_backends import BACKENDS
from fluxcore.ops.prune_regrow import prune_regrow_

# Where there is no GPU, test_prune_regrow_triton.py holds Triton to C++ with fewer elements.
device = device_fixture([name for name in BACKENDS if name != "triton" or torch.cuda.is_available()])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = {"a": (37, 61), "b": (1,), "c": (0,), "d": (70_001,), "e": ()}


def model(device, dtype, active=0.7):
    weights = {name: torch.randn(size).to(device, dtype) for name, size in SIZES.items()}
    masks = {name: (torch.rand(size) < active).to(device) for name, size in SIZES.items()}
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0)
    return weights, masks


def smallest(values, candidates, k):
    """Places of the k smallest among the candidates, by value and then by place."""
    places = candidates.nonzero().flatten()
    return places[values[places].sort(stable=True).indices[:k]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_drops_exactly_the_smallest(device, dtype, scope, fraction):
    weights, masks = model(device, dtype)
    before = {name: (weights[name].clone(), masks[name].clone()) for name in weights}
    report = prune_regrow_(weights, drop_fraction=fraction, masks=masks, scope=scope)
    groups = [list(SIZES)] if scope == "global" else [[name] for name in SIZES]
    for names in groups:
        flat = torch.cat([before[name][0].flatten().cpu().float().abs() for name in names])
        active = torch.cat([before[name][1].flatten().cpu() for name in names])
        k = int(fraction * int(active.sum()))
        gone = smallest(flat, active, k)
        expected = torch.cat([before[name][0].flatten().cpu() for name in names])
        expected[gone] = 0
        active[gone] = False
        assert torch.equal(torch.cat([weights[name].flatten().cpu() for name in names]), expected)
        assert torch.equal(torch.cat([masks[name].flatten().cpu() for name in names]), active)
        assert sum(report.dropped[list(SIZES).index(name)] for name in names) == k
    assert report.active.tolist() == [int(mask.sum()) for mask in masks.values()]
    assert report.regrown.tolist() == [0] * len(SIZES)


@pytest.mark.parametrize("kind", ["equal", "two values", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_equal_weights_the_first_go(device, kind, dtype):
    n = 200_000
    weight = torch.zeros(n, device=device, dtype=dtype)
    if kind == "equal":
        weight.fill_(-0.3)
    elif kind == "two values":
        weight[::2], weight[1::2] = 1.0, -0.5
    original = weight.clone()
    mask = torch.ones(n, dtype=torch.bool, device=device)
    prune_regrow_([weight], drop_fraction=0.7, masks=[mask])
    gone = smallest(original.float().abs().cpu(), torch.ones(n, dtype=torch.bool), int(0.7 * n))
    assert torch.equal((~mask).cpu().nonzero().flatten(), gone.sort().values)
    assert torch.equal(weight[mask], original[mask])


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_regrows_where_the_gradient_is_largest(device, scope):
    weights, masks = model(device, torch.float32)
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    weights["d"].grad[5] = float("nan")
    masks["d"][5], weights["d"][5] = False, 0
    before = {name: (weights[name].clone(), masks[name].clone()) for name in weights}
    report = prune_regrow_(
        weights, drop_fraction=0.1, regrow="gradient", regrow_fraction=0.25, masks=masks, scope=scope
    )
    groups = [list(SIZES)] if scope == "global" else [[name] for name in SIZES]
    for names in groups:
        inactive = torch.cat([~before[name][1].flatten().cpu() for name in names])
        size = torch.cat([weights[name].grad.flatten().cpu().abs() for name in names]).nan_to_num(nan=-1)
        grown = smallest(-size, inactive, int(0.25 * int(inactive.sum())))
        now = torch.cat([masks[name].flatten().cpu() for name in names])
        assert torch.equal((now & inactive).nonzero().flatten(), grown.sort().values)
    assert not masks["d"][5]
    for name, weight in weights.items():
        assert (weight[~before[name][1]] == 0).all()
        stayed = before[name][1] & masks[name]
        assert torch.equal(weight[stayed], before[name][0][stayed])
    assert report.dropped.sum() > 0
    assert report.active.tolist() == [int(mask.sum()) for mask in masks.values()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_noise_comes_back_in_exact_number(device, dtype, scope):
    weights, masks = model(device, dtype, active=0.2)
    before = {name: mask.clone() for name, mask in masks.items()}
    report = prune_regrow_(
        weights, drop_fraction=0.5, regrow="noise", regrow_fraction=0.4, noise_std=0.1, masks=masks, scope=scope, step=9
    )
    inactive = {name: int((~mask).sum()) for name, mask in before.items()}
    if scope == "tensor":
        assert report.regrown.tolist() == [int(0.4 * n) for n in inactive.values()]
    else:
        assert int(report.regrown.sum()) == int(0.4 * sum(inactive.values()))
    grown = ~before["d"] & masks["d"]
    assert weights["d"][grown].float().std() == pytest.approx(0.1, rel=0.05)
    assert (weights["d"][~masks["d"]] == 0).all()
    # Random positions: neither half of the tensor is favoured.
    assert grown[:35_000].sum() == pytest.approx(int(grown[35_000:].sum()), rel=0.05)


def test_backends_choose_the_same_elements():
    import fluxcore

    results = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(1)
        weights, masks = model(torch.device("cpu"), torch.float32)
        with fluxcore.backend(backend):
            report = prune_regrow_(
                weights, drop_fraction=0.3, regrow="noise", regrow_fraction=0.5, noise_std=1.0, seed=5, masks=masks
            )
        results.append((weights, masks, report))
    for weights, masks, report in results[1:]:
        for name in SIZES:
            assert torch.equal(masks[name], results[0][1][name])
            torch.testing.assert_close(weights[name], results[0][0][name], rtol=1e-6, atol=0)
        assert all(torch.equal(a, b) for a, b in zip(report.cuts, results[0][2].cuts, strict=True))


@pytest.mark.parametrize("split", [1, 63, 64, 30_000, 30_007])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_halves_end_as_the_whole(device, split, dtype):
    n = 60_001
    weight = torch.randn(n).to(device, dtype)
    mask = (torch.rand(n) < 0.6).to(device)
    parts = [(weight[:split].clone(), mask[:split].clone()), (weight[split:].clone(), mask[split:].clone())]
    options = {"regrow": "noise", "noise_std": 0.1, "seed": 3, "step": 8}
    whole = prune_regrow_({"w": weight}, drop_fraction=0.3, regrow_fraction=0.3, masks={"w": mask}, **options)
    for (part, bits), offset in zip(parts, (0, split), strict=True):
        prune_regrow_({"w": part}, masks={"w": bits}, offsets={"w": offset}, cuts=whole.cuts, **options)
    assert torch.equal(torch.cat([part for part, _ in parts]), weight)
    assert torch.equal(torch.cat([bits for _, bits in parts]), mask)


def test_threads_do_not_matter(device):
    results = []
    for threads in (1, 2):
        torch.manual_seed(2)
        weights, masks = model(device, torch.float32)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            prune_regrow_(weights, drop_fraction=0.5, regrow="noise", regrow_fraction=0.5, noise_std=1.0, masks=masks)
        finally:
            torch.set_num_threads(before)
        results.append(weights)
    assert all(torch.equal(results[0][name], results[1][name]) for name in SIZES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moments_of_touched_weights_are_reset(device, dtype):
    parameter = torch.nn.Parameter(torch.randn(50, 41, device=device).to(dtype))
    scalar = torch.nn.Parameter(torch.randn((), device=device).to(dtype))
    optimizer = torch.optim.AdamW([parameter, scalar], amsgrad=True)
    parameter.grad, scalar.grad = torch.randn_like(parameter), torch.randn_like(scalar)
    optimizer.step()
    mask = torch.rand(50, 41, device=device) < 0.5
    before, was_active = {k: v.clone() for k, v in optimizer.state[parameter].items()}, mask.clone()
    version = parameter._version
    prune_regrow_(
        {"w": parameter, "s": scalar},
        drop_fraction=0.5, regrow="random", regrow_fraction=0.5, optimizer=optimizer,
        masks={"w": mask, "s": torch.ones((), dtype=torch.bool, device=device)},
    )  # fmt: skip
    touched = mask != was_active
    assert touched.sum() > 900
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert (optimizer.state[parameter][key][touched] == 0).all()
        assert torch.equal(optimizer.state[parameter][key][~touched], before[key][~touched])
    assert optimizer.state[scalar]["step"] == 1
    assert parameter._version > version


def test_a_transposed_weight_counts_in_row_major_order(device):
    plain = torch.randn(40, 30, device=device)
    weight = plain.t().contiguous().t()
    prune_regrow_([plain], drop_fraction=0.4)
    prune_regrow_([weight], drop_fraction=0.4)
    assert weight.stride() == (1, 40)
    assert torch.equal(weight, plain)


def test_tied_weights_count_once(device):
    weight = torch.randn(1000, device=device)
    report = prune_regrow_({"embed": weight, "head": weight}, drop_fraction=0.25)
    assert report.names == ("embed",)
    assert int((weight == 0).sum()) == 250


def test_nan_goes_last(device):
    weight = torch.tensor([float("nan"), 1.0, float("inf"), 0.5], device=device)
    prune_regrow_([weight], drop_fraction=0.75)
    assert weight[0].isnan()
    assert weight[1:].tolist() == [0, 0, 0]


def test_nothing_and_no_tensors(device):
    report = prune_regrow_({}, drop_fraction=0.5)
    assert report.names == ()
    assert report.dropped.shape == (0,)
    empty = torch.empty(0, device=device)
    assert prune_regrow_([empty], drop_fraction=1.0).dropped.tolist() == [0]
