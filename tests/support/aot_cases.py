"""Launches whose machine code is checked without a GPU; a new kernel adds its lines here."""

from functools import partial

import torch
from fluxcore.kernels.cross_entropy import launch_cross_entropy_bwd, launch_cross_entropy_fwd
from fluxcore.kernels.kl_div import launch_kl_div_fwd
from fluxcore.kernels.kl_div_gradient import launch_kl_div_bwd
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
) -> None:
    """Launch forward ("fwd"), forward with the gradient ("fused") or backward ("bwd"); shapes as for softmax_stats."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, share, dx = torch.empty((3, N, V), dtype=dtype)
    row, weight = torch.empty(N, dtype=wide), torch.empty(V, dtype=wide) if class_weights else None
    index = torch.empty(N, dtype=torch.int64)
    inputs = (x, share if probabilities else index, weight, row, None)
    options = (link, "none", -100, label_smoothing, 0.1, penalty, 0.5, top_k, 0, 1.0, 0.0)
    state, top_index, totals = torch.empty((7, N), dtype=wide), torch.empty((N, top_k), dtype=torch.int32), row[:4]
    if way == "bwd":
        launch_cross_entropy_bwd(row, *inputs, index, state, top_index, totals, *options, dx)
    else:
        gradient = dx if way == "fused" else None
        launch_cross_entropy_fwd(*inputs, *options, row, state[:0], index, state, top_index, totals, gradient)


_SHAPES = {"rows-1000": (64, 1000), "rows-257": (64, 257), "loop-50257": (64, 50257), "split-50304": (2, 50304)}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_OUTPUTS = {
    "logprob+entropy": {"outputs": LOG_PROB_AND_ENTROPY},
    "all-but-top-k": {"outputs": ALL_BUT_TOP_K},
    "all-k8": {"outputs": ALL, "top_k": 8},
    "softcap": {"outputs": LOG_PROB_AND_ENTROPY, "softcap": 30.0},
}

CASES = {
    f"softmax_stats_{direction}/{shape}/{dtype}/{outputs}": partial(
        softmax_stats, *_SHAPES[shape], _DTYPES[dtype], **_OUTPUTS[outputs], backward=direction == "bwd"
    )
    for direction in ("fwd", "bwd")
    for shape in _SHAPES
    for dtype in _DTYPES
    for outputs in _OUTPUTS
}


def kl_div(
    N: int,
    V: int,
    dtype: torch.dtype,
    direction: str,
    *,
    backward: bool = False,
    apart: int = 0,
    temperature: float = 1.0,
) -> None:
    """Launch forward or backward; `apart`: by how many elements the reference's rows are longer than the policy's."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    logits, gradient = torch.empty((2, N, V), dtype=dtype)
    ref_logits = torch.empty((N, V + apart), dtype=dtype)[:, :V]
    rows, state, totals = torch.empty(N, dtype=wide), torch.empty((5, N), dtype=wide), torch.empty(1, dtype=wide)
    options = (direction, 0.5, "none", temperature)
    if backward:
        launch_kl_div_bwd(rows, logits, ref_logits, rows, state, totals, *options, gradient)
    else:
        launch_kl_div_fwd(logits, ref_logits, rows, *options, rows, state, totals)


CASES |= {
    f"kl_div_{way}/{shape}/{dtype}/{direction}": partial(
        kl_div, *_SHAPES[shape], _DTYPES[dtype], direction, backward=way == "bwd"
    )
    for way in ("fwd", "bwd")
    for shape in _SHAPES
    for dtype in _DTYPES
    for direction in ("policy_ref", "ref_policy", "jsd")
}

_LOSSES = {
    "plain": {},
    "neg_entropy": {"penalty": "neg_entropy"},
    "smooth": {"label_smoothing": 0.1},
    "probabilities": {"probabilities": True},
    "stablemax": {"link": "stablemax"},
}
CASES |= {
    f"cross_entropy_{name}": partial(cross_entropy, *_SHAPES["loop-50257"], torch.bfloat16, way, **_LOSSES[loss])
    for loss in _LOSSES
    for way, name in (
        ("fwd", f"fwd/loop-50257/bf16/{loss}"),
        ("fused", f"fwd/loop-50257/bf16/{loss}+gradient"),
        ("bwd", f"bwd/loop-50257/bf16/{loss}"),
    )
}
