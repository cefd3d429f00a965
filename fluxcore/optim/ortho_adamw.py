"""AdamW with the gradient, or its update, made perpendicular to the weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.ops._checks import check_choice
from fluxcore.optim._lists import backend_for, with_gradient
from fluxcore.optim._steps import Steps
from fluxcore.reference.ortho import ortho_adamw_step

Project = Literal["gradient", "update"]
PROJECT = ("gradient", "update")


class OrthoAdamW(Optimizer):
    """AdamW whose steps are perpendicular to the weights, in one pass over all parameters.

    Each parameter is one flat vector w. With `project="gradient"` (the paper) its gradient is replaced by
    g - (w.g / w.w) w, stretched back to |g|, before the moments; with "update" the moments see the gradient itself and
    the update m / (sqrt(v) + eps) is replaced instead, so that what is subtracted is perpendicular in truth. Nothing is
    stretched of which less than 1e-6 is left. Weight decay is decoupled and acts on w apart, so the projection does
    not take it away. A parameter without gradient stays as it is, without decay. `.grad` is not changed.

    All arithmetic is in float64, the state and the weights are rounded once. float32 parameters run together, on a CPU
    in C++ with threads, on a GPU in five launches of Triton; others parameter by parameter in PyTorch. Nothing waits
    for the device.

    Args:
        params: Parameters, or groups of them; one that comes twice steps once.
        lr: Learning rate, finite and >= 0.
        betas: Decay rates of the two moments, within [0, 1).
        eps: >= 0, added to the root of the second moment. 1e-8 hides gradients below about 1e-8.
        weight_decay: >= 0, decoupled: w shrinks by lr * weight_decay of itself.
        project: "gradient" or "update".

    Raises:
        ValueError: an option out of range.
        RuntimeError: at a step, for a sparse or complex gradient, or a state that does not fit the parameter.

    Source: Prieto et al., "Grokking at the edge of numerical stability" (arXiv:2501.04697); Loshchilov and Hutter,
    "Decoupled weight decay regularization" (arXiv:1711.05101).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        project: Project = "gradient",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "project": project}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of any optimizer; the group's options are checked."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters that have a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_all()
        return loss

    def _step_all(self) -> None:
        # All that may raise comes first, so that a failed step leaves everything as it was.
        taken = []
        for group in self.param_groups:
            options = {name: group[name] for name in ("betas", "eps", "weight_decay")}
            options |= {"lr": float(group["lr"]), "project_update": group["project"] == "update"}
            for parameter in with_gradient([group]):
                state, gradient = self._state(parameter), parameter.grad
                assert gradient is not None
                tensors = (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
                taken.append((options, tensors, state["step"], backend_for(*tensors)))
        steps = Steps()
        for options, tensors, count, backend in taken:
            count.add_(1)
            if backend == "reference":
                results = ortho_adamw_step(*tensors, step=int(count), **options)
                for tensor, result in zip((tensors[0], *tensors[2:]), results, strict=True):
                    tensor.copy_(result)
            else:
                steps.add(backend, tensors, step=int(count), **options)
                torch.autograd.graph.increment_version(tensors[0])
        steps.run()

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if state:
            _check_state(state, parameter)
        else:
            # On the CPU, where reading it waits for nothing; float32, as in torch's own optimizers.
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _check_state(state: dict[str, Any], parameter: Tensor) -> None:
    # The kernels get addresses alone: a moment that is too short would not be noticed there.
    missing = [name for name in ("step", "exp_avg", "exp_avg_sq") if not isinstance(state.get(name), Tensor)]
    if missing:
        raise RuntimeError(
            f"the state of a parameter must have a tensor {missing[0]!r}, got {', '.join(sorted(state))}"
            "\n\nIs it that of another optimizer? Begin with a new OrthoAdamW."
        )
    for name in ("exp_avg", "exp_avg_sq"):
        value = state[name]
        if value.shape != parameter.shape or value.device != parameter.device or not value.is_floating_point():
            raise RuntimeError(
                f"the moment {name!r} must be like its parameter, {tuple(parameter.shape)} on {parameter.device}, "
                f"got {tuple(value.shape)} of {value.dtype} on {value.device}"
                "\n\nAfter a model was moved, load the optimizer's state again, or make a new optimizer."
            )


def _check(options: dict[str, Any]) -> None:
    check_choice("project", options["project"], PROJECT)
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= float(options[name]) < math.inf:
            raise ValueError(f"`{name}` must be finite and >= 0, got {options[name]}")
    if len(options["betas"]) != 2 or not all(0 <= beta < 1 for beta in options["betas"]):
        raise ValueError(f"`betas` must be two numbers within [0, 1), got {options['betas']}")
