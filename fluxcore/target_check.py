"""A mode in which losses look at their targets and raise, instead of giving NaN at the rows that are wrong."""

import os
from contextvars import ContextVar, Token

import torch
from torch import Tensor

_checked: ContextVar[bool | None] = ContextVar("fluxcore_check_targets", default=None)


class check_targets:  # noqa: N801 -- reads as `with fluxcore.check_targets():`
    """Raise ValueError for a class index outside [0, V) that is not `ignore_index`, in the losses inside the block.

    Otherwise such a row's loss and gradient are NaN, since looking at the targets makes the CPU wait for the GPU. The
    environment variable FLUXCORE_CHECK_TARGETS=1 turns the mode on for the whole process. It holds at each call, also
    inside a `torch.compile`d function.

    Args:
        enabled: False turns the mode off inside the block.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._tokens: list[Token[bool | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_checked.set(self._enabled))

    def __exit__(self, *_: object) -> None:
        _checked.reset(self._tokens.pop())


def targets_are_checked() -> bool:
    """Whether the mode is on for this call."""
    chosen = _checked.get()
    return os.environ.get("FLUXCORE_CHECK_TARGETS", "0") == "1" if chosen is None else chosen


def raise_if_out_of_range(target: Tensor, classes: int, ignore_index: int) -> None:
    """Look at class indices [N]; waits for the device.

    Raises:
        ValueError: the first that is outside [0, classes) and not `ignore_index`, with its place.
    """
    wrong = (target != ignore_index) & ((target < 0) | (target >= classes))
    if wrong.any():
        place = int(torch.argmax(wrong.int()))
        raise ValueError(
            f"`target` must be within [0, {classes}), or `ignore_index` ({ignore_index}), got {int(target[place])} "
            f"at row {place}, and {int(wrong.sum()) - 1} more"
            "\n\nDoes the tokenizer have more ids than the model has classes?"
        )
