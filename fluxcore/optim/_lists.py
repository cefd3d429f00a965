"""What the optimizers share: which parameters take part, and which the C++ kernels can take."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fluxcore.backends import resolve_backend


def with_gradient(groups: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
    """Parameters that have a gradient, each once.

    Raises:
        RuntimeError: a gradient is sparse or complex.
    """
    seen: set[int] = set()
    for group in groups:
        for parameter in group["params"]:
            if parameter.grad is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if parameter.grad.is_sparse or parameter.is_complex():
                kind = "sparse" if parameter.grad.is_sparse else "complex"
                raise RuntimeError(
                    f"gradients must be dense and real, got a {kind} one of shape {tuple(parameter.shape)}"
                    "\n\nFor an embedding pass `sparse=False`."
                )
            yield parameter


def kernel_takes(*tensors: Tensor) -> bool:
    """Whether the C++ kernels can work on these: float32, on the CPU, and all laid out alike without gaps."""
    first = tensors[0]
    return (
        all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
        and all(x.stride() == first.stride() for x in tensors)
        and torch.ops.aten.is_non_overlapping_and_dense(first)
        and resolve_backend(first.device) == "cpp"
    )
