"""`linear_softmax_stats` as a scorer calls it, forward alone, at the heads of real models: beside the product whose
logits are stored whole, with our statistics of them, with PyTorch's, and compiled. Tokens a second are N over the time.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Answer, Case, Floor
from benchmarks.ops import rivals
from benchmarks.ops.bench_linear_cross_entropy import DTYPES, HEADS, Head, make_head, make_inputs
from fluxcore import LinearOptions, explain, linear_softmax_stats, softmax_stats

F = torch.nn.functional
ROWS = {"cpu": {"gpt2": 2048, "smollm2_135m": 1024, "llama3_8b": 128}, "cuda": dict.fromkeys(HEADS, 8192)}
"""N"""
OUTPUTS = ("entropy", "varentropy", "logprob")
Statistics = Callable[[Tensor, Tensor, Tensor], Answer]


def cases(device: torch.device) -> list[Case]:
    """Every head; on a GPU in half precision too."""
    return [make_case(name, dtype, device) for name in HEADS for dtype in DTYPES[device.type]]


def make_case(name: str, dtype: torch.dtype, device: torch.device) -> Case:
    (D, V), N = HEADS[name], ROWS[device.type][name]
    head = make_head(D, V, dtype)
    score = partial(scoring_step, head)
    contenders = {
        "fluxcore": lambda: score(ours),
        "logits stored, fluxcore.softmax_stats": lambda: score(by_stored_logits),
        "eager": lambda: score(naive),
        "torch.compile": lambda: score(rivals.compiled(naive)),  # type: ignore[arg-type]
    }
    expected = {"fluxcore": partial(expected_ms, N, D, V, dtype, device, None)}
    if device.type == "cuda":
        for fused, what in ((True, "fluxcore, fused"), (False, "fluxcore, in chunks")):
            options = LinearOptions(fused=fused)
            contenders[what] = partial(score, partial(ours, options=options))
            expected[what] = partial(expected_ms, N, D, V, dtype, device, options)
    traced = scoring_step(lambda hidden: hidden.new_empty(V, D), naive)
    return Case(
        name=f"linear_softmax_stats/{name}_forward",
        shape=(N, D, V),
        dtype=dtype,
        inputs=partial(make_inputs, N, D, V, dtype),
        contenders=contenders,
        truth=lambda hidden, target: score(naive)(hidden.double(), target),
        tolerance=10 * rivals.tolerance(dtype) if dtype == torch.float32 else rivals.tolerance(dtype),  # sums over D
        bytes_moved=(N * D + V * D) * dtype.itemsize,
        flop=2 * N * D * V,
        floor=Floor.COPY,
        memory_like={"eager": traced, "torch.compile": traced},
        input_bytes=(N * D + V * D) * 4,
        expected_ms=expected,
    )


def expected_ms(
    N: int, D: int, V: int, dtype: torch.dtype, device: torch.device, options: LinearOptions | None
) -> float:
    """By the cost model, from the rates of copies and matrix products measured now."""
    shapes = {"input": (N, D), "linear_weight": (V, D)}
    rates = {"dtype": dtype, "device": device, "measure": True}
    schedule = explain("linear_softmax_stats", shapes, outputs=OUTPUTS, requires_grad=False, options=options, **rates)
    assert schedule.forward_ms is not None
    return schedule.forward_ms


def scoring_step(head: Head, statistics: Statistics) -> Callable[..., Answer]:
    """Statistics without a graph."""

    def call(hidden: Tensor, target: Tensor) -> Answer:
        with torch.no_grad():
            return statistics(hidden, head(hidden), target)

    return call


def ours(hidden: Tensor, weight: Tensor, target: Tensor, options: LinearOptions | None = None) -> Answer:
    stats = linear_softmax_stats(hidden, weight, target, outputs=OUTPUTS, options=options)
    return {name: getattr(stats, name) for name in OUTPUTS}


def by_stored_logits(hidden: Tensor, weight: Tensor, target: Tensor) -> Answer:
    stats = softmax_stats(F.linear(hidden, weight), target, outputs=OUTPUTS)
    return {name: getattr(stats, name) for name in OUTPUTS}


def naive(hidden: Tensor, weight: Tensor, target: Tensor) -> Answer:
    """What a user writes in PyTorch, in float32 from the logits on."""
    logp = rivals.wide(F.linear(hidden, weight)).log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    spread = (p * (logp + entropy.unsqueeze(-1)).square()).sum(-1)
    return {"entropy": entropy, "varentropy": spread, "logprob": logp.gather(-1, target.unsqueeze(-1)).squeeze(-1)}


def bench_linear_softmax_stats(measure: Callable[[], None]) -> None:
    measure()
