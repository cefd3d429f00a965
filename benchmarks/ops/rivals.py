"""What the benchmarks of losses on logits share: shapes, the backward pass, and rivals that may not be installed.

Each rival raises NotInstalledError or CannotRunError where it cannot be timed, so that its row says why.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.harness import Answer, CannotRunError, NotInstalledError

N = 4096
CLASSES = (256, 4096, 32000, 50257, 128256)
DTYPES = (torch.float32, torch.bfloat16)
Loss = Callable[..., Tensor]


def tolerance(dtype: torch.dtype) -> float:
    """Rivals that compute in the half type itself would fail a float32 tolerance by far."""
    return 1e-5 if dtype == torch.float32 else 5e-2


def wide(x: Tensor) -> Tensor:
    """In float32 at least, as a careful user has it."""
    return x if x.dtype == torch.float64 else x.float()


def answer_of(loss: Loss) -> Callable[..., Answer]:
    """The loss alone."""
    return lambda x, *rest: {"loss": loss(x, *rest)}


def with_gradient(loss: Loss) -> Callable[..., Answer]:
    """Loss and gradient: one step of training but for the model."""

    def call(x: Tensor, *rest: Tensor) -> Answer:
        leaf = x.detach().requires_grad_()
        value = loss(leaf, *rest)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return {"loss": value.detach(), "gradient": gradient}

    return call


def compiled(loss: Loss) -> Loss:
    """By torch.compile, anew: each case is compiled for its own shape, as in a program with one shape."""
    torch._dynamo.reset()
    return torch.compile(loss, dynamic=False)


def from_package(package: str, module: str, name: str) -> Callable[..., object]:
    """`name` of `module`, which comes with `package`."""
    if find_spec(package.split(".")[0]) is None:
        raise NotInstalledError(package)
    found: Callable[..., object] = getattr(import_module(module), name)
    return found


def needs_cuda(device: torch.device) -> None:
    """For rivals whose kernels are written for GPUs; asked first, since elsewhere it does not help to install them."""
    if device.type != "cuda":
        raise CannotRunError("its kernels need a CUDA device")


class OnACopy:
    """For a loss that writes its gradient over its logits: it gets a copy of them, made once.

    So only the first call with some logits, the one that is checked, is right; the others take the same time.
    """

    def __init__(self, loss: Loss, gradient: bool) -> None:
        self.loss = loss
        self.gradient = gradient
        self.seen: Tensor | None = None

    def __call__(self, x: Tensor, *rest: Tensor) -> Answer:
        """As `answer_of` or, with a gradient, `with_gradient`."""
        if self.seen is not x:
            self.seen = x
            self.copy = x.detach().clone().requires_grad_(self.gradient)
        value = self.loss(self.copy, *rest)
        if not self.gradient:
            return {"loss": value}
        (gradient,) = torch.autograd.grad(value, self.copy)
        return {"loss": value.detach(), "gradient": gradient}
