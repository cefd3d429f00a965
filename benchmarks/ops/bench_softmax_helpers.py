"""`entropy_from_logits` and `selective_log_softmax` against eager PyTorch, torch.compile and TRL's functions."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import fluxcore
from benchmarks.harness import Case, Floor
from benchmarks.ops import rivals
from benchmarks.ops.bench_cross_entropy import make_inputs


def cases(device: torch.device) -> list[Case]:
    """Every size and dtype."""
    return [
        make_case(name, V, dtype, device)
        for V in rivals.CLASSES
        for dtype in rivals.DTYPES
        for name in ("entropy_from_logits", "selective_log_softmax")
    ]


def make_case(name: str, V: int, dtype: torch.dtype, device: torch.device) -> Case:
    shape = (rivals.N, V)
    naive = {"entropy_from_logits": entropy, "selective_log_softmax": log_probability}[name]
    return Case(
        name=f"softmax_helpers/{name}",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders={
            "fluxcore": lambda: rivals.answer_of(of_inputs(name, getattr(fluxcore, name))),
            "eager": lambda: rivals.answer_of(naive),
            "torch.compile": lambda: rivals.answer_of(rivals.compiled(naive)),
            "trl": lambda: rivals.answer_of(of_inputs(name, rivals.from_package("trl", "trl.trainer.utils", name))),
        },
        truth=lambda x, target: rivals.answer_of(naive)(x.double(), target),
        tolerance=rivals.tolerance(dtype),
        bytes_moved=rivals.N * V * dtype.itemsize,
        floor=Floor.COPY if device.type == "cuda" else Floor.SUM,
        memory_like={contender: rivals.answer_of(naive) for contender in ("eager", "torch.compile")},
        input_bytes=2 * rivals.N * V * 4,
    )


def of_inputs(name: str, function: Callable[..., Tensor]) -> rivals.Loss:
    """The entropy needs no target."""
    return (lambda x, _target: function(x)) if name == "entropy_from_logits" else function


def entropy(x: Tensor, target: Tensor) -> Tensor:
    """What a user writes in PyTorch, in float32."""
    logp = rivals.wide(x).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def log_probability(x: Tensor, target: Tensor) -> Tensor:
    """What a user writes in PyTorch, in float32."""
    return rivals.wide(x).log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def bench_softmax_helpers(measure: Callable[[], None]) -> None:
    measure()
