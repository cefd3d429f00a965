"""What a trainer needs to know of its task, be it rows to classify or text to continue."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fluxcore.training.sampling import Sampler


class StepPart(NamedTuple):
    """A part of a step, small enough to run forward and backward at once."""

    loss: Tensor
    """Scalar, sum over the part's targets, nats; differentiable."""
    scale: Tensor | float
    """Times `loss`: this part's share of the mean over the step's targets, of all ranks."""
    sums: dict[str, Tensor]
    """What is logged, `loss` among it, and `cross_entropy` where the loss is more: detached sums over the targets."""
    counted: Tensor | int
    """Targets in the part."""


class Task(Protocol):
    """A model, what it is trained on and how it is measured."""

    model: nn.Module
    """On the CPU, with fresh weights."""
    steps: int
    """Optimizer steps of the whole run."""
    loader: Any
    """Iterable of batches, a step each, with `state_dict` and `load_state_dict`."""
    validation: Any
    """`run(accelerator, model, measure)` gives the means of a validation, `loss` among them."""
    measure: Any
    """What `validation.run` wants; cross entropy without penalties."""
    sampler: Sampler | None
    """Writes samples; None: there are none."""

    def parts(self, model: nn.Module, batch: Any) -> Iterator[StepPart]:
        """Cut a batch into parts and run the model on each as it comes; run backward on each before the next.

        Args:
            model: As `accelerator.prepare` returned it.
            batch: From the loader.
        """
