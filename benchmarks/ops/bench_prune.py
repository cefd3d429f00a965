"""`kth_magnitude` and `prune_regrow_` against what PyTorch offers: kthvalue, topk, quantile, nn.utils.prune, two sorts.

The pruning rivals are timed on a copy of the weights, as ours is, so that each call sees the same input; the copy's
time is in every row.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import prune

import fluxcore
from benchmarks.harness import Answer, CannotRunError, Case, Floor

DROP, GROW = 0.3, 0.3
CHECKED = 40
"""A number of which three tenths is whole: torch rounds it, we take the floor."""


def cases(device: torch.device) -> list[Case]:
    """Ten million weights in float32 and bfloat16; a hundred times as many on a GPU."""
    N = 10_000_000 if device.type == "cpu" else 1_000_000_000
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        found += [kth_case(N, dtype), collapse_case(N, dtype), rigl_case(N, dtype)]
    return found


def kth_case(N: int, dtype: torch.dtype) -> Case:
    return Case(
        name="kth_magnitude",
        shape=(N,),
        dtype=dtype,
        inputs=partial(make_inputs, N, dtype),
        contenders={
            "fluxcore": lambda: lambda w, *_: {"value": fluxcore.kth_magnitude([w], len(w) // 2)},
            "kthvalue": lambda: lambda w, *_: {"value": w.abs().kthvalue(len(w) // 2).values},
            "topk": lambda: lambda w, *_: {"value": w.abs().topk(len(w) // 2, largest=False).values[-1]},
            "sort": lambda: lambda w, *_: {"value": w.abs().sort().values[len(w) // 2 - 1]},
            "quantile": partial(quantile, N),
        },
        truth=lambda w, *_: {"value": w.double().abs().sort().values[len(w) // 2 - 1]},
        tolerance=0.0,
        bytes_moved=N * dtype.itemsize,
        floor=Floor.SUM,
        check_rows=CHECKED,
    )


def quantile(N: int) -> Callable[..., Answer]:
    """By a float32 share of the length, which leads to a neighbour where that is long."""
    if N > 1 << 24:
        raise CannotRunError("torch.quantile takes at most 2^24 elements")

    def call(w: Tensor, *_: Tensor) -> Answer:
        share = (len(w) // 2 - 1) / (len(w) - 1)
        return {"value": w.float().abs().quantile(share, interpolation="nearest")}

    return call


def collapse_case(N: int, dtype: torch.dtype) -> Case:
    return Case(
        name="prune_regrow_/collapse",
        shape=(N,),
        dtype=dtype,
        inputs=partial(make_inputs, N, dtype),
        contenders={
            "fluxcore": lambda: collapse,
            "nn.utils.prune": lambda: torch_prune,
            "kthvalue threshold": lambda: threshold,
            "fluxcore, 2:4": lambda: two_of_four,
            "clone alone": lambda: lambda w, *_: {"untouched": w.clone()},
        },
        truth=lambda w, *_: threshold(w.double()) | {"untouched": w.double(), "2:4": largest_two_of_four(w.double())},
        tolerance=0.0,
        bytes_moved=N * 2 * dtype.itemsize,
        check_rows=CHECKED,
    )


def rigl_case(N: int, dtype: torch.dtype) -> Case:
    return Case(
        name="prune_regrow_/drop and regrow by gradient",
        shape=(N,),
        dtype=dtype,
        inputs=partial(make_inputs, N, dtype),
        contenders={
            "fluxcore": lambda: rigl,
            "two sorts": lambda: two_sorts,
            "fluxcore, noise": lambda: surge,
            "clones alone": lambda: lambda w, mask, _: {"untouched": w.clone(), "untouched mask": mask.clone()},
        },
        truth=rigl_truth,
        tolerance=0.0,
        bytes_moved=N * (3 * dtype.itemsize + 2),
        check_rows=CHECKED,
    )


def make_inputs(N: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, a mask with seven tenths active, gradients."""
    generator = torch.Generator(device).manual_seed(0)
    w, gradient = (torch.randn(N, generator=generator, device=device).to(dtype) for _ in range(2))
    return w, torch.rand(N, generator=generator, device=device) < 0.7, gradient


def collapse(w: Tensor, *_: Tensor) -> Answer:
    weight = w.clone()
    fluxcore.prune_regrow_([weight], drop_fraction=DROP)
    return {"weight": weight}


def two_of_four(w: Tensor, *_: Tensor) -> Answer:
    weight = w.clone()
    fluxcore.prune_regrow_([weight], drop_fraction=0.5, scope="2:4")
    return {"2:4": weight}


def largest_two_of_four(w: Tensor) -> Tensor:
    dropped = w.reshape(-1, 4).abs().argsort(dim=1, stable=True)[:, :2]
    return w.reshape(-1, 4).scatter(1, dropped, 0).reshape(-1)


def torch_prune(w: Tensor, *_: Tensor) -> Answer:
    return {"weight": w * prune.L1Unstructured(amount=DROP).compute_mask(w, torch.ones_like(w))}


def threshold(w: Tensor, *_: Tensor) -> Answer:
    size = w.abs()
    return {"weight": w * (size > size.kthvalue(int(DROP * len(w))).values)}


def rigl(w: Tensor, mask: Tensor, gradient: Tensor) -> Answer:
    weight, bits = w.clone(), mask.clone()
    weight.grad = gradient
    fluxcore.prune_regrow_([weight], drop_fraction=DROP, regrow="gradient", regrow_fraction=GROW, masks=[bits])
    return {"weight": weight, "mask": bits}


def surge(w: Tensor, mask: Tensor, _: Tensor) -> Answer:
    """Random positions and noise: no rival chooses the same, so its number of active weights is compared."""
    weight, bits = w.clone(), mask.clone()
    report = fluxcore.prune_regrow_(
        [weight], drop_fraction=DROP, regrow="noise", regrow_fraction=GROW, noise_std=0.1, masks=[bits]
    )
    return {"active": report.active[0]}


def active_after(mask: Tensor) -> Tensor:
    active, inactive = int(mask.sum()), int((~mask).sum())
    return torch.tensor(active - int(DROP * active) + int(GROW * inactive), dtype=torch.float64)


def two_sorts(w: Tensor, mask: Tensor, gradient: Tensor) -> Answer:
    """The step of RigL as it is usually written."""
    drop, grow = int(DROP * int(mask.sum())), int(GROW * int((~mask).sum()))
    bits, weight = mask.clone(), w.clone()
    dropped = w.abs().masked_fill(~mask, torch.inf).argsort()[:drop]
    grown = gradient.abs().masked_fill(mask, -1).argsort(descending=True)[:grow]
    bits[dropped], weight[dropped] = False, 0
    bits[grown], weight[grown] = True, 0
    return {"weight": weight, "mask": bits}


def rigl_truth(w: Tensor, mask: Tensor, gradient: Tensor) -> Answer:
    exact = two_sorts(w.double(), mask, gradient.double())
    untouched = {"untouched": w.double(), "untouched mask": mask.double()}
    return untouched | {"weight": exact["weight"], "mask": exact["mask"].double(), "active": active_after(mask)}


def bench_prune(measure: Callable[[], None]) -> None:
    measure()
