"""`kth_magnitude` against sorting, on every backend."""

import pytest
import torch
from support.devices import device_fixture

import fluxcore
from fluxcore.ops._prune_backends import BACKENDS
from fluxcore.ops.kth_magnitude import kth_magnitude

device = device_fixture(BACKENDS)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tensors(device, dtype):
    wide = torch.randn(70_003) * torch.logspace(-12, 12, 70_003)
    found = [wide, torch.randn(3, 5, 7), torch.zeros(11), torch.full((2049,), -2.5), torch.tensor(0.25)]
    return [x.to(device, dtype) for x in found]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_global_is_the_kth_of_all(device, dtype):
    values = tensors(device, dtype)
    ordered = torch.cat([x.flatten() for x in values]).float().abs().cpu().sort().values
    for k in (1, 2, 11, 12, 13, 500, 36_000, len(ordered) - 1, len(ordered)):
        found = kth_magnitude(values, k)
        assert found.dtype == torch.float32
        assert found.cpu() == ordered[k - 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensor_scope_takes_the_kth_of_each(device, dtype):
    values = tensors(device, dtype)
    k = [30_000, 50, 11, 1, 1]
    expected = [x.flatten().float().abs().cpu().sort().values[i - 1] for x, i in zip(values, k, strict=True)]
    assert kth_magnitude(values, k, scope="tensor").cpu().tolist() == expected


def test_dtypes_may_be_mixed(device):
    values = [torch.randn(1000, device=device).to(dtype) for dtype in DTYPES]
    ordered = torch.cat([x.float() for x in values]).abs().cpu().sort().values
    assert kth_magnitude({str(x.dtype): x for x in values}, 1234).cpu() == ordered[1233]


@pytest.mark.parametrize("isa", fluxcore._core.cpu_isas())
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("FLUXCORE_ISA", isa)
    for dtype in DTYPES:
        x = torch.randn(9001).to(dtype)
        assert kth_magnitude([x], 4000) == x.float().abs().kthvalue(4000).values


def test_nan_is_the_largest_and_subnormals_count(device):
    x = torch.tensor([float("nan"), float("inf"), 1e-45, 0.0, -3e-45], device=device)
    assert [kth_magnitude([x], k).item() for k in (1, 2, 3, 4)] == [
        0.0,
        1.401298464324817e-45,
        2.802596928649634e-45,
        float("inf"),
    ]
    assert kth_magnitude([x], 5).isnan()


def test_a_tied_tensor_counts_once(device):
    x = torch.arange(10.0, device=device)
    assert kth_magnitude([x, x, x + 10], 11) == 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 1), ValueError, "at least one tensor, got none"),
        (([torch.ones(3)], 0), ValueError, r"`k` must be within \[1, 3\].* got 0"),
        (([torch.ones(3)], 4), ValueError, "got 4"),
        (([torch.ones(3), torch.ones(2)], [1], "tensor"), ValueError, "or 2 of them"),
        (([torch.ones(3), torch.ones(2)], 3, "tensor"), ValueError, "the elements of 1, got 3"),
        (([torch.ones(3)], 1.5), TypeError, "`k` must be a whole number, got 1.5"),
        (([torch.ones(3)], None), TypeError, "`k` must be a whole number, got None"),
        (([torch.ones(3)], [True]), TypeError, "`k` must be a whole number, got True"),
        (([torch.ones(3)], 1, "row"), ValueError, "`scope` must be one of tensor, global, got 'row'"),
        ((torch.ones(3), 1), TypeError, r"Pass \[tensor\]"),
        (([torch.ones(3).double()], 1), TypeError, "got torch.float64"),
        (([torch.ones(3).to_sparse()], 1), TypeError, "must be dense"),
        ((["w"], 1), TypeError, "must hold tensors, got str"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        kth_magnitude(*arguments)


def test_overlapping_views_are_refused():
    x = torch.ones(10)
    with pytest.raises(ValueError, match="share memory in part"):
        kth_magnitude([x[:6], x[4:]], 1)


def test_registration_and_compile():
    values = [torch.randn(50), torch.randn(7)]
    torch.library.opcheck(torch.ops.fluxcore.kth_magnitude, (values, [3], False))
    torch.library.opcheck(torch.ops.fluxcore.kth_magnitude, (values, [3, 2], True))
