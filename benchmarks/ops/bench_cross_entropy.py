"""`cross_entropy`, plain and with an entropy penalty, forward and with its gradient, against eager PyTorch,
torch.compile, Liger-Kernel and quack."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Answer, Case, Floor
from benchmarks.ops import rivals
from fluxcore import Sharpness, cross_entropy

COEF = 0.1
PENALTY = Sharpness("neg_entropy", COEF)


def cases(device: torch.device) -> list[Case]:
    """Every size and dtype; each variant as a loss alone and with its gradient."""
    return [
        make_case(variant, gradient, V, dtype, device)
        for V in rivals.CLASSES
        for dtype in rivals.DTYPES
        for variant in ("plain", "neg_entropy")
        for gradient in (False, True)
    ]


def make_case(variant: str, gradient: bool, V: int, dtype: torch.dtype, device: torch.device) -> Case:
    shape = (rivals.N, V)
    penalty = PENALTY if variant == "neg_entropy" else None
    naive = partial(composed, penalised=penalty is not None)
    answer = rivals.with_gradient if gradient else rivals.answer_of
    contenders = {
        "fluxcore": lambda: answer(partial(cross_entropy, penalty=penalty)),
        "eager": lambda: answer(naive),
        "torch.compile": lambda: answer(rivals.compiled(naive)),
    }
    if penalty is None:
        contenders["liger"] = partial(liger, gradient, device)
        contenders["quack"] = lambda: answer(quack(device))
    logit_bytes = rivals.N * V * dtype.itemsize
    return Case(
        name=f"cross_entropy/{variant}_{'forward_backward' if gradient else 'forward'}",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders=contenders,
        truth=lambda x, target: answer(naive)(x.double(), target),
        tolerance=rivals.tolerance(dtype),
        bytes_moved=(2 if gradient else 1) * logit_bytes,
        floor=Floor.COPY if gradient or device.type == "cuda" else Floor.SUM,
        memory_like={"eager": answer(naive), "torch.compile": answer(naive), "fluxcore": answer(smallest)},
        # float32 noise before it is rounded to the dtype.
        input_bytes=2 * rivals.N * V * 4,
    )


def make_inputs(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits with the spread of a trained model's, and targets."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=device).mul_(3)
    return x.to(dtype), torch.randint(shape[1], shape[:1], generator=generator, device=device)


def composed(x: Tensor, target: Tensor, penalised: bool) -> Tensor:
    """What a user writes in PyTorch: the loss in float32, the entropy from the log-probabilities."""
    x = rivals.wide(x)
    if not penalised:
        return torch.nn.functional.cross_entropy(x, target)
    logp = x.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return torch.nn.functional.nll_loss(logp, target) + COEF * entropy.mean()


def smallest(x: Tensor, target: Tensor) -> Tensor:
    """As little memory as a loss can take: its gradient is as large as the logits."""
    return x.sum()


def liger(gradient: bool, device: torch.device) -> Callable[..., Answer]:
    rivals.needs_cuda(device)
    make = rivals.from_package("liger_kernel", "liger_kernel.transformers", "LigerCrossEntropyLoss")
    return rivals.OnACopy(make(), gradient)


def quack(device: torch.device) -> rivals.Loss:
    rivals.needs_cuda(device)
    loss = rivals.from_package("quack", "quack.cross_entropy", "cross_entropy")
    return partial(loss, reduction="mean")


def bench_cross_entropy(measure: Callable[[], None]) -> None:
    measure()
