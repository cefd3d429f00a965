"""Checks that the ops on logits share. All can be traced by `torch.compile`; none reads a tensor's values."""

import math
from collections.abc import Collection
from numbers import Integral, Real

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_TOP_K = 64


def wide_dtype(logits: Tensor) -> torch.dtype:
    """The dtype in which losses and statistics of `logits` are given."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def check_dense(name: str, value: Tensor) -> None:
    """A tensor with an address and a stride a dim."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        layout = "a nested tensor" if value.is_nested else value.layout
        raise TypeError(f"`{name}` must be dense, got {layout}\n\nPass `{name}.to_dense()`, or padded rows.")


def check_logits(logits: Tensor) -> None:
    """A floating point tensor with a last dim of at least one class."""
    check_dense("logits", logits)
    if logits.dtype not in DTYPES:
        raise TypeError(
            f"`logits` must be float32, bfloat16, float16 or float64, got {logits.dtype}"
            "\n\nDid you pass token ids? Logits come out of the model's head."
        )
    if logits.dim() == 0:
        raise ValueError("`logits` must have a last dim of classes, got a scalar")
    if logits.shape[-1] == 0:
        raise ValueError(f"`logits` must have at least one class, got shape {tuple(logits.shape)}")


def check_temperature(temperature: float) -> None:
    """Finite and positive."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be finite and > 0, got {temperature}\n\nFor temperature 0 take `argmax`.")


def check_softcap(softcap: float | None) -> None:
    """Finite and positive, or None."""
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"`softcap` must be finite and > 0, or None for none, got {softcap}")


def check_top_k(name: str, top_k: int, classes: int) -> None:
    """Within the number of classes, and what the kernels can keep."""
    if not 1 <= top_k <= min(classes, MAX_TOP_K):
        raise ValueError(f"`{name}` must be within [1, min(V, {MAX_TOP_K})], got {top_k} for V = {classes}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """One of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")


def check_number(name: str, value: object) -> float:
    """A real number, and no bool; NaN is one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    return float(value)


def check_whole(name: str, value: object) -> int:
    """A whole number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}")
    return int(value)


def checked_classes(name: str, index: Tensor, logits: Tensor) -> Tensor:
    """`index` as int64, one class for each row of `logits`; whether they are within [0, V) is not looked at."""
    check_dense(name, index)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"`{name}` must hold integer classes, got {index.dtype}")
    check_like_rows(name, index, logits)
    return index.to(torch.int64)


def check_like_rows(name: str, value: Tensor, logits: Tensor) -> None:
    """One element for each row of `logits`, on its device."""
    if value.shape != logits.shape[:-1]:
        raise ValueError(
            f"`{name}` must have the shape of `logits` without the classes, {tuple(logits.shape[:-1])}, "
            f"got {tuple(value.shape)}"
        )
    check_same_device(name, value, logits)


def check_same_device(name: str, value: Tensor, logits: Tensor) -> None:
    """Dense, and on the device of `logits`."""
    check_dense(name, value)
    if value.device != logits.device:
        raise ValueError(f"`{name}` must be on the device of `logits`, {logits.device}, got {value.device}")


def check_no_gradient(name: str, value: Tensor) -> None:
    """It gets no gradient; to drop it silently would be wrong."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"`{name}` must not require grad: it gets no gradient\n\nPass `{name}.detach()`.")


def checked_row_weights(name: str, value: Tensor | None, logits: Tensor) -> Tensor | None:
    """`value` [...] flat and in the dtype of the loss, or None."""
    if value is None:
        return None
    if value.is_complex():
        raise TypeError(f"`{name}` must be real, got {value.dtype}")
    check_like_rows(name, value, logits)
    check_no_gradient(name, value)
    return value.to(wide_dtype(logits)).reshape(-1)
