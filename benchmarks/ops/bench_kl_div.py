"""`kl_div`, KL(policy || reference), against eager PyTorch, torch.compile, TRL's loss of distillation and Liger."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import CannotRunError, Case, Floor
from benchmarks.ops import rivals
from fluxcore import kl_div


def cases(device: torch.device) -> list[Case]:
    """Every size and dtype, as a loss alone and with its gradient."""
    return [
        make_case(gradient, V, dtype, device)
        for V in rivals.CLASSES
        for dtype in rivals.DTYPES
        for gradient in (False, True)
    ]


def make_case(gradient: bool, V: int, dtype: torch.dtype, device: torch.device) -> Case:
    shape = (rivals.N, V)
    answer = rivals.with_gradient if gradient else rivals.answer_of
    return Case(
        name=f"kl_div/{'forward_backward' if gradient else 'forward'}",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders={
            "fluxcore": lambda: answer(kl_div),
            "eager": lambda: answer(composed),
            "torch.compile": lambda: answer(rivals.compiled(composed)),
            "trl generalized_jsd_loss": lambda: answer(trl()),
            "liger": lambda: answer(liger(gradient, device)),
        },
        truth=lambda x, ref: answer(composed)(x.double(), ref.double()),
        tolerance=rivals.tolerance(dtype),
        bytes_moved=(3 if gradient else 2) * rivals.N * V * dtype.itemsize,
        floor=Floor.COPY if gradient or device.type == "cuda" else Floor.SUM,
        memory_like={
            "fluxcore": answer(smallest),
            "eager": answer(composed),
            "torch.compile": answer(composed),
            "trl generalized_jsd_loss": answer(composed),
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


def smallest(x: Tensor, ref: Tensor) -> Tensor:
    """As little memory as a loss can take: its gradient is as large as the logits."""
    return x.sum()


def trl() -> rivals.Loss:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # else its import warns that it may change
    trainer = rivals.from_package("trl", "trl.experimental.gkd.gkd_trainer", "GKDTrainer")
    return partial(trainer.generalized_jsd_loss, beta=1, reduction="batchmean")


def liger(gradient: bool, device: torch.device) -> rivals.Loss:
    rivals.needs_cuda(device)
    make = rivals.from_package("liger_kernel", "liger_kernel.transformers", "LigerKLDIVLoss")
    if gradient:
        raise CannotRunError("its divergence has no gradient by the first distribution")
    loss = make(reduction="batchmean", log_target=True)
    return lambda x, ref: loss(ref.float().log_softmax(-1), x.float().log_softmax(-1))


def bench_kl_div(measure: Callable[[], None]) -> None:
    measure()
