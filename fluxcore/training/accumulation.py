"""An optimizer step in micro-batches, with the gradient that one large batch would have."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from fluxcore.training.language_model import IGNORED


class MicroBatch(NamedTuple):
    """A part of a rank's rows, on the device."""

    tokens: Tensor
    """[b, seq] int64."""
    targets: Tensor
    """[b, seq] int64, -100 where there is none."""
    scale: Tensor
    """Scalar: times a sum over these targets, it is this part's share of the mean over the step's."""


def micro_batches(
    accelerator: Accelerator, model: Any, tokens: Tensor, targets: Tensor, *, count: int, seq: int
) -> Iterator[MicroBatch]:
    """Cut a rank's rows of an optimizer step into micro-batches; run forward and backward on each as it comes.

    The loader hands out whole steps, so an accumulation is never cut off: not by the end of an epoch, and not by a
    checkpoint. Tokens weigh equally, however padding is spread over micro-batches and ranks. Gradients are exchanged
    between ranks once, in the last backward pass.

    Args:
        accelerator: Device and ranks.
        model: As `accelerator.prepare` returned it.
        tokens: [n, T], the rank's rows; `count` divides n.
        targets: [n, T], -100 where there is none.
        count: Micro-batches.
        seq: Tokens in a sequence; divides T.
    """
    tokens, targets = (each.to(accelerator.device, non_blocking=True) for each in (tokens, targets))
    counted = accelerator.reduce((targets != IGNORED).sum(), "sum").clamp(min=1)
    # Data parallelism averages gradients over ranks; the sum over them is wanted.
    scale = accelerator.num_processes / counted
    parts = zip(tokens.chunk(count), targets.chunk(count), strict=True)
    for i, (part, part_targets) in enumerate(parts, start=1):
        with nullcontext() if i == count else accelerator.no_sync(model):
            yield MicroBatch(part.reshape(-1, seq), part_targets.reshape(-1, seq), scale)
