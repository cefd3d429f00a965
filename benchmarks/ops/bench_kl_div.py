"""`kl_div`, KL(policy || reference) and Jensen-Shannon, against eager PyTorch, torch.compile, TRL's loss of
distillation and Liger."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.harness import CannotRunError, Case, Floor
from benchmarks.ops import rivals
from fluxcore import kl_div

Direction = Literal["policy_ref", "jsd"]
NAMES: dict[Direction, str] = {"policy_ref": "kl_div", "jsd": "kl_div/jsd"}
TRL_BETA: dict[Direction, float] = {"policy_ref": 1.0, "jsd": 0.5}
"""What TRL's `beta` is for each."""


def cases(device: torch.device) -> list[Case]:
    """Both divergences in every size and dtype, as a loss alone and with its gradient."""
    return [
        make_case(direction, gradient, V, dtype, device)
        for direction in NAMES
        for V in rivals.CLASSES
        for dtype in rivals.DTYPES
        for gradient in (False, True)
    ]


def make_case(direction: Direction, gradient: bool, V: int, dtype: torch.dtype, device: torch.device) -> Case:
    shape = (rivals.N, V)
    answer = rivals.with_gradient if gradient else rivals.answer_of
    naive = composed if direction == "policy_ref" else composed_jsd
    return Case(
        name=f"{NAMES[direction]}/{'forward_backward' if gradient else 'forward'}",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders={
            "fluxcore": lambda: answer(partial(kl_div, direction=direction)),
            "eager": lambda: answer(naive),
            "torch.compile": lambda: answer(rivals.compiled(naive)),
            "trl generalized_jsd_loss": lambda: answer(trl(direction)),
            "liger": lambda: answer(liger(direction, gradient, device)),
        },
        truth=lambda x, ref: answer(naive)(x.double(), ref.double()),
        tolerance=rivals.tolerance(dtype),
        bytes_moved=(3 if gradient else 2) * rivals.N * V * dtype.itemsize,
        floor=Floor.COPY if gradient or device.type == "cuda" else Floor.SUM,
        memory_like={
            "fluxcore": answer(smallest),
            "eager": answer(naive),
            "torch.compile": answer(naive),
            "trl generalized_jsd_loss": answer(naive),
        },
        input_bytes=3 * rivals.N * V * 4,
    )


def make_inputs(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits of a policy, and of the reference that it has moved away from."""
    generator = torch.Generator(device).manual_seed(0)
    ref = torch.randn(shape, generator=generator, device=device).mul_(3)
    policy = torch.randn(shape, generator=generator, device=device).mul_(0.3).add_(ref)
    return policy.to(dtype), ref.to(dtype)


def composed(x: Tensor, ref: Tensor) -> Tensor:
    """What a user writes in PyTorch, in float32."""
    logp, logr = rivals.wide(x).log_softmax(-1), rivals.wide(ref).log_softmax(-1)
    return torch.nn.functional.kl_div(logr, logp, log_target=True, reduction="batchmean")


def composed_jsd(x: Tensor, ref: Tensor) -> Tensor:
    """As `composed`: half of the divergence of each from the mean of the two."""
    logp, logr = rivals.wide(x).log_softmax(-1), rivals.wide(ref).log_softmax(-1)
    mixture = torch.logaddexp(logp, logr) - math.log(2.0)
    from_mixture = partial(torch.nn.functional.kl_div, mixture, log_target=True, reduction="batchmean")
    return 0.5 * (from_mixture(logp) + from_mixture(logr))


def smallest(x: Tensor, ref: Tensor) -> Tensor:
    """As little memory as a loss can take: its gradient is as large as the logits."""
    return x.sum()


def trl(direction: Direction) -> rivals.Loss:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # else its import warns that it may change
    trainer = rivals.from_package("trl", "trl.experimental.gkd.gkd_trainer", "GKDTrainer")
    return partial(trainer.generalized_jsd_loss, beta=TRL_BETA[direction], reduction="batchmean")


def liger(direction: Direction, gradient: bool, device: torch.device) -> rivals.Loss:
    rivals.needs_cuda(device)
    if direction == "jsd":
        symmetric = rivals.from_package("liger_kernel", "liger_kernel.transformers", "LigerJSD")()
        return lambda x, ref: symmetric(x.float().log_softmax(-1), ref.float().log_softmax(-1))
    make = rivals.from_package("liger_kernel", "liger_kernel.transformers", "LigerKLDIVLoss")
    if gradient:
        raise CannotRunError("its divergence has no gradient by the first distribution")
    loss = make(reduction="batchmean", log_target=True)
    return lambda x, ref: loss(ref.float().log_softmax(-1), x.float().log_softmax(-1))


def bench_kl_div(measure: Callable[[], None]) -> None:
    measure()
