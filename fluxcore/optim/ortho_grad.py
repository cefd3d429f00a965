"""Any optimizer, stepping perpendicular to the weights."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.optim._lists import backend_for, with_gradient
from fluxcore.optim._steps import Projections
from fluxcore.reference.ortho import perpendicular


@torch.no_grad()
def orthogonalize_(parameters: Iterable[Tensor]) -> None:
    """Replace each parameter's `.grad` by its part perpendicular to the parameter, as long as the gradient was.

    The part is g - (w.g / w.w) w with a parameter as one flat vector, stretched back to |g| unless less than 1e-6 |g|
    is left. Computed in float64, without waiting for the device, so that it is right also where the gradient is all
    but parallel to the weight. Of a parameter with one element nothing is left.

    Args:
        parameters: Those without gradient are left out; one that comes twice counts once.

    Raises:
        RuntimeError: a gradient is sparse or complex.

    Source: Prieto et al., "Grokking at the edge of numerical stability" (arXiv:2501.04697).
    """
    # All that may raise comes first, so that a failed call leaves the gradients as they were.
    pairs = [(x, x.grad) for x in with_gradient([{"params": list(parameters)}]) if x.grad is not None]
    backends = [backend_for(*pair) for pair in pairs]
    projections = Projections()
    for (parameter, gradient), backend in zip(pairs, backends, strict=True):
        if backend == "reference":
            gradient.copy_(perpendicular(gradient, parameter))
        else:
            projections.add(backend, parameter, gradient)
            torch.autograd.graph.increment_version(gradient)
    projections.run()


class OrthoGrad(Optimizer):
    """A wrapper that makes the gradients perpendicular to the weights before each step of `base`.

    A loss that grows along the weights, as softmax cross entropy does once all is classified, then no longer makes them
    longer. Weight decay of `base` acts as before, for it is added after the projection. The state is that of `base`;
    learning-rate schedules work on either object. `.grad` holds the projected gradients after a step.

    Args:
        base: Any optimizer of dense real parameters, those with a closure too.

    Raises:
        TypeError: `base` is no optimizer.
        RuntimeError: at a step, for a sparse or complex gradient.

    Source: Prieto et al., "Grokking at the edge of numerical stability" (arXiv:2501.04697).
    """

    def __init__(self, base: Optimizer) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"`base` must be an optimizer, got {type(base).__name__}\n\nPass OrthoGrad(AdamW(...)).")
        self.base = base
        super().__init__(base.param_groups, dict(base.defaults))
        self._share()

    def _share(self) -> None:
        # The very objects of the base, so that whoever changes a learning rate changes it for both.
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Project the gradients and step; with a closure, project what each of its evaluations leaves."""
        if closure is None:
            self._project()
            self.base.step()
            return None

        def projected() -> float:
            loss = closure()
            self._project()
            return loss

        return self.base.step(projected)

    def _project(self) -> None:
        orthogonalize_(parameter for group in self.param_groups for parameter in group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of `base`."""
        if getattr(self, "param_groups", None) is self.base.param_groups:
            self.base.add_param_group(param_group)
        else:  # called by the constructor of Optimizer, for groups that the base has already
            super().add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of `base`."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """That of `base`: a run may put the wrapper on or take it off."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of `base`."""
        self.base.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {"base": self.base}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["base"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"OrthoGrad({self.base!r})"
