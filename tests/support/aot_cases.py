"""Launches whose machine code is checked without a GPU; a new kernel adds its lines here.

A case is named OP_WAY/SHAPE/DTYPE/VARIANT. Whatever is compiled differently meets every data type in the loop at
V = 50257, where rows are not aligned, and every other regime in one data type. A cross entropy with its gradient has
both passes in it, so that the two alone are compiled for bf16 and for the plainest only.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from fluxcore.kernels.cross_entropy import launch_cross_entropy_bwd, launch_cross_entropy_fwd
from fluxcore.kernels.gae import launch_gae
from fluxcore.kernels.kl_div import launch_kl_div_fwd
from fluxcore.kernels.kl_div_gradient import launch_kl_div_bwd
from fluxcore.kernels.ortho import CHUNK, AdamOptions, OrthoRow, launch_ortho_adamw, launch_orthogonalize
from fluxcore.kernels.prune_apply import launch_prune_apply
from fluxcore.kernels.prune_select import launch_select_smallest
from fluxcore.kernels.softmax_stats import launch_softmax_stats_fwd
from fluxcore.kernels.softmax_stats_gradient import launch_softmax_stats_bwd

# The stats for perplexity and entropy; all but the top-k mass; all.
LOG_PROB_AND_ENTROPY, ALL_BUT_TOP_K, ALL = 0b0000111, 0b0111111, 0b1111111


def softmax_stats(
    N: int, V: int, dtype: torch.dtype, outputs: int, *, top_k: int = 0, softcap: float = 0.0, backward: bool = False
) -> None:
    """Launch forward or backward; N <= 4 splits rows, larger N loops over them, V <= 2048 takes whole rows."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, dx = torch.empty((2, N, V), dtype=dtype)
    target, argmax = torch.empty((2, N), dtype=torch.int64)
    stats, state = torch.empty((outputs.bit_count(), N), dtype=wide), torch.empty((6, N), dtype=wide)
    top_index = torch.empty((N, top_k), dtype=torch.int32)
    options = (outputs, top_k, 1.0, softcap)
    if backward:
        launch_softmax_stats_bwd(x, target, *options, stats, argmax, state, top_index, dx)
    else:
        launch_softmax_stats_fwd(x, target, *options, stats, argmax, state, top_index)


def cross_entropy(
    N: int,
    V: int,
    dtype: torch.dtype,
    way: str,
    *,
    link: str = "softmax",
    penalty: str = "",
    top_k: int = 0,
    label_smoothing: float = 0.0,
    class_weights: bool = False,
    probabilities: bool = False,
    softcap: float = 0.0,
    outputs: int = 0,
) -> None:
    """Launch forward ("fwd"), forward with the gradient ("fused") or backward ("bwd"); shapes as for softmax_stats."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, share, dx = torch.empty((3, N, V), dtype=dtype)
    row, weight = torch.empty(N, dtype=wide), torch.empty(V, dtype=wide) if class_weights else None
    index = torch.empty(N, dtype=torch.int64)
    inputs = (x, share if probabilities else index, weight, row, row if penalty else None)
    temperature = 0.5 if softcap else 1.0
    options = (link, "none", -100, label_smoothing, 0.1, penalty, 0.5, top_k, outputs, temperature, softcap)
    state, top_index, totals = torch.empty((7, N), dtype=wide), torch.empty((N, top_k), dtype=torch.int32), row[:4]
    stats = torch.empty((outputs.bit_count(), N), dtype=wide)
    if way == "bwd":
        launch_cross_entropy_bwd(row, *inputs, index, state, top_index, totals, *options, dx)
    else:
        gradient = dx if way == "fused" else None
        launch_cross_entropy_fwd(*inputs, *options, row, stats, index, state, top_index, totals, gradient)


def kl_div(
    N: int,
    V: int,
    dtype: torch.dtype,
    direction: str,
    *,
    backward: bool = False,
    scaled: bool = False,
) -> None:
    """Launch forward or backward; `scaled`: with a temperature and token weights."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    logits, ref_logits, gradient = torch.empty((3, N, V), dtype=dtype)
    rows, state, totals = torch.empty(N, dtype=wide), torch.empty((5, N), dtype=wide), torch.empty(1, dtype=wide)
    options = (direction, 0.5, "none", 0.5 if scaled else 1.0)
    weight = rows if scaled else None
    if backward:
        launch_kl_div_bwd(rows, logits, ref_logits, weight, state, totals, *options, gradient)
    else:
        launch_kl_div_fwd(logits, ref_logits, weight, *options, rows, state, totals)


def gae(dtype: torch.dtype, shape: tuple[int, int, int], *, corrected: bool) -> None:
    """Launch the recursion over [outer, T, inner], plain or with a mask and importance weights."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rewards, values = (torch.empty(shape, dtype=dtype) for _ in range(2))
    advantages, returns, ratio = (torch.empty(shape, dtype=wide) for _ in range(3))
    dones, mask = (torch.empty(shape, dtype=torch.uint8) for _ in range(2))
    bootstrap = torch.empty(shape[0], shape[2], dtype=wide)
    corrections = (mask, ratio) if corrected else (None, None)
    launch_gae(rewards, values, dones, bootstrap, *corrections, 0.99, 0.95, 1.0, 1.0, advantages, returns)


def ortho(*, adam: bool, update: bool = False) -> None:
    """Launch a step of AdamW, or the projection alone."""
    tensors = [torch.empty(2 * CHUNK) for _ in range(4)]
    if adam:
        launch_ortho_adamw([OrthoRow(*tensors, AdamOptions(0.1, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01))], update)
    else:
        launch_orthogonalize([OrthoRow(*tensors[:2])])


def prune_select(dtype: torch.dtype, kind: str) -> None:
    """Launch a selection of the smallest keys of a masked tensor."""
    weight, mask = torch.empty(1 << 16, dtype=dtype), torch.zeros(1 << 16, dtype=torch.bool)
    launch_select_smallest([weight], [mask], [weight], [0], [1 << 60], 1, kind, True, 0.5, None, True)


def prune_apply(dtype: torch.dtype, kind: str, *, noise_std: float = 0.0, pattern: tuple[int, int] = (0, 0)) -> None:
    """Launch what follows the selection, with a mask and both moments of Adam."""
    weight, gradient, *moments = (torch.empty(1 << 16, dtype=dtype) for _ in range(4))
    mask, cuts = torch.zeros(1 << 16, dtype=torch.bool), torch.zeros((1, 2), dtype=torch.int64)
    owned = [(moment, 0) for moment in moments]
    launch_prune_apply(
        [weight], [mask], [gradient], [0], [1 << 60], 1, owned, cuts, cuts, kind, [noise_std], *pattern
    )  # fmt: skip


_SHAPES = {"rows-1000": (64, 1000), "rows-257": (64, 257), "loop-50257": (64, 50257), "split-50304": (2, 50304)}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_STATS: dict[str, dict[str, Any]] = {
    "all-but-top-k": {"outputs": ALL_BUT_TOP_K},
    "logprob+entropy": {"outputs": LOG_PROB_AND_ENTROPY},
    "all-k8": {"outputs": ALL, "top_k": 8},
    "softcap": {"outputs": LOG_PROB_AND_ENTROPY, "softcap": 30.0},
}
_DIVERGENCES: dict[str, dict[str, Any]] = {
    "policy_ref": {"direction": "policy_ref"},
    "ref_policy": {"direction": "ref_policy"},
    "jsd": {"direction": "jsd"},
    "policy_ref-scaled": {"direction": "policy_ref", "scaled": True},
}
_LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "neg_entropy": {"penalty": "neg_entropy"},
    "all-stats": {"outputs": ALL_BUT_TOP_K, "penalty": "non_max_sum"},
    "top_k_mass": {"penalty": "top_k_mass", "top_k": 8},
    "softcap": {"softcap": 30.0},
    "smooth": {"label_smoothing": 0.1},
    "smooth-weights": {"label_smoothing": 0.1, "class_weights": True},
    "probabilities": {"probabilities": True},
    "probabilities-weights": {"probabilities": True, "class_weights": True},
    "stablemax": {"link": "stablemax"},
    "stablemax-weights": {"link": "stablemax", "label_smoothing": 0.1, "class_weights": True},
    "stablemax-probabilities": {"link": "stablemax", "probabilities": True},
}


def _cases(
    op: str, launch: Callable[..., None], variants: dict[str, dict[str, Any]], ways: dict[str, dict[str, Any]]
) -> dict[str, Callable[[], None]]:
    """Cases of an op, whose launch takes the arguments of a way and of a variant."""
    cases: dict[str, Callable[[], None]] = {}
    for (v, variant), (r, regime), (d, dtype) in product(enumerate(variants), enumerate(_SHAPES), enumerate(_DTYPES)):
        loop = regime == "loop-50257"
        if not loop and (v + r) % len(_DTYPES) != d:
            continue
        for way, how in ways.items():
            if "fwd+gradient" in ways and way != "fwd+gradient" and not (loop and (v == 0 or dtype == "bf16")):
                continue
            case = f"{op}_{way.partition('+')[0]}/{regime}/{dtype}/{variant}{way[3:]}"
            cases[case] = partial(launch, *_SHAPES[regime], _DTYPES[dtype], **variants[variant], **how)
    return cases


_HALF_AND_SINGLE = ("bf16", "fp16", "fp32")
_SELECTED = [*((dtype, "magnitude") for dtype in _HALF_AND_SINGLE), ("fp32", "gradient"), ("fp32", "random")]
# A pattern is chosen by comparing each weight with those beside it, one by one.
_PRUNED: list[tuple[str, str, str, dict[str, Any]]] = [
    ("tiles", "collapse", "none", {}),
    ("tiles", "noise", "random", {"noise_std": 0.1}),
    ("tiles", "gradient", "gradient", {}),
    ("rows-4", "2:4", "none", {"pattern": (2, 4)}),
]
_WAYS: dict[str, dict[str, Any]] = {"fwd": {"backward": False}, "bwd": {"backward": True}}
_FUSED: dict[str, dict[str, Any]] = {"fwd": {"way": "fwd"}, "fwd+gradient": {"way": "fused"}, "bwd": {"way": "bwd"}}
CASES = (
    _cases("softmax_stats", softmax_stats, _STATS, _WAYS)
    | _cases("kl_div", kl_div, _DIVERGENCES, _WAYS)
    | _cases("cross_entropy", cross_entropy, _LOSSES, _FUSED)
    | {
        "ortho_adamw/loop/fp32/gradient": partial(ortho, adam=True),
        "ortho_adamw/loop/fp32/update": partial(ortho, adam=True, update=True),
        "orthogonalize/loop/fp32/gradient": partial(ortho, adam=False),
    }
    | {
        f"gae/rows-{layout}/{dtype}/{variant}": partial(gae, _DTYPES[dtype], shape, corrected=variant != "plain")
        for (layout, shape), dtype, variant in product(
            {"time-last": (64, 2048, 1), "time-first": (1, 2048, 64)}.items(), _DTYPES, ("plain", "mask+ratio")
        )
    }
    | {f"prune_select/tiles/{dtype}/{kind}": partial(prune_select, _DTYPES[dtype], kind) for dtype, kind in _SELECTED}
    | {
        f"prune_apply/{shape}/{dtype}/{variant}": partial(prune_apply, _DTYPES[dtype], kind, **how)
        for dtype, (shape, variant, kind, how) in product(_HALF_AND_SINGLE, _PRUNED)
        if dtype == "fp32" or variant in ("collapse", "noise")
    }
)
