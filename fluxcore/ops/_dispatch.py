"""What the ops' backend modules share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fluxcore.backends import Backend, resolve_backend

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
}
"""Names of the logits' dtypes in the extension's functions."""


def backend_of(op: str, implemented: Sequence[Backend], device: torch.device) -> Backend:
    """The backend for tensors on `device`, for an op that not every backend has.

    Raises:
        ValueError: the backend cannot run there, or has no such op.
    """
    chosen = resolve_backend(device)
    if chosen not in implemented:
        raise ValueError(
            f"backend `{chosen}` has no `{op}`, only {', '.join(implemented)} has"
            f'\n\nCall it in `with fluxcore.backend("{implemented[0]}"):`.'
        )
    return chosen


def contiguous_rows(values: Tensor) -> Tensor:
    """`values` [N, V] with a contiguous last dim; rows may have any stride."""
    return values if values.stride(1) == 1 or values.shape[1] == 1 else values.contiguous()


def pointer(tensor: Tensor | None) -> int:
    """Address for the extension, 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def row_stride_0_or_1(upstream: Tensor) -> Tensor:
    """`upstream`, [] or [N], such that one stride of 0 or 1 serves all its rows."""
    return upstream if upstream.dim() == 0 or upstream.stride(0) in (0, 1) else upstream.contiguous()
