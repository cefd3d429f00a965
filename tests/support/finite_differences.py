"""Check gradients by finite differences."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fluxcore.backends import resolve_backend


def assert_finite_differences_agree(function: Callable[..., object], inputs: Tensor | Sequence[Tensor]) -> None:
    """As `torch.autograd.gradcheck`: element by element, but along one random direction in Triton's interpreter.

    There every call takes tenths of a second, and an element takes two.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    device = inputs[0].device
    interpreted = device.type == "cpu" and resolve_backend(device) == "triton"
    torch.autograd.gradcheck(function, inputs, fast_mode=interpreted)
