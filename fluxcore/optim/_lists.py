"""What the optimizers share: which parameters take part, and which kernels can take them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fluxcore.backends import Backend, resolve_backend


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


def backend_for(*tensors: Tensor) -> Backend:
    """Whose kernels take these: they must be float32, on one device, and all laid out alike without gaps.

    "reference" for all others.
    """
    first = tensors[0]
    alike = all(x.dtype == torch.float32 and x.device == first.device and x.stride() == first.stride() for x in tensors)
    if not alike or not torch.ops.aten.is_non_overlapping_and_dense(first):
        return "reference"
    return resolve_backend(first.device)
