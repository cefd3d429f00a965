"""Checks of lists of weights."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def named(argument: str, tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors by name, detached, each storage once under its first name; those of a list are called "0", "1", ...

    Raises:
        TypeError: not tensors, or not of float32, bfloat16 or float16.
        ValueError: several devices, or two tensors that share a part of their memory.
    """
    if isinstance(tensors, Tensor):
        raise TypeError(f"`{argument}` must be a list or a mapping of tensors, got a tensor\n\nPass [tensor].")
    given: object = tensors
    if isinstance(given, nn.Module) and not isinstance(given, nn.ParameterList):
        raise TypeError(
            f"`{argument}` must be a list or a mapping of tensors, got the module {type(given).__name__}"
            "\n\nPass dict(model.named_parameters())."
        )
    if not isinstance(given, Iterable):
        raise TypeError(f"`{argument}` must be a list or a mapping of tensors, got {type(given).__name__}")
    pairs = tensors.items() if isinstance(tensors, Mapping) else enumerate(tensors)
    found: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for key, tensor in pairs:
        name = str(key)
        _check(argument, name, tensor)
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        if identity not in seen:
            seen.add(identity)
            found[name] = tensor.detach()
    devices = {tensor.device for tensor in found.values()}
    if len(devices) > 1:
        raise ValueError(f"`{argument}` must be on one device, got {', '.join(sorted(map(str, devices)))}")
    check_no_overlap(argument, found)
    return found


def _check(argument: str, name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{argument}` must hold tensors, got {type(tensor).__name__} for {name!r}")
    if tensor.dtype not in WEIGHT_DTYPES:
        raise TypeError(f"`{argument}` must be float32, bfloat16 or float16, got {tensor.dtype} for {name!r}")
    if tensor.layout != torch.strided:
        raise TypeError(f"`{argument}` must be dense, got {tensor.layout} for {name!r}")


def check_writable(argument: str, tensors: Mapping[str, Tensor]) -> None:
    """Of each tensor every element has memory of its own.

    Raises:
        ValueError: one was expanded.
    """
    for name, x in tensors.items():
        if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
            raise ValueError(
                f"`{argument}` must have an element of memory for each of the tensor's, got {name!r} expanded to "
                f"{tuple(x.shape)}\n\nPass a copy: {name}.contiguous()."
            )


def check_no_overlap(argument: str, tensors: Mapping[str, Tensor]) -> None:
    """No two share memory.

    Raises:
        ValueError: two do.
    """

    def span(name: str) -> tuple[int, int]:
        x = tensors[name]
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()

    ordered = sorted((name for name in tensors if tensors[name].numel()), key=span)
    for before, after in pairwise(ordered):
        if span(after)[0] < span(before)[1]:
            raise ValueError(
                f"`{argument}` must not share memory in part, as {before!r} and {after!r} do"
                "\n\nPass the tensor that both are views of."
            )


def contiguous(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each in row-major order; one that is so already is itself in the list."""
    return [x if x.is_contiguous() else x.contiguous() for x in tensors]
