"""`OrthoAdamW` against torch's AdamW, which does less, and against OrthoGrad around it."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from benchmarks.harness import Answer, Case, NotInstalledError
from fluxcore.optim import OrthoAdamW, OrthoGrad
from fluxcore.reference.ortho import ortho_adamw_step

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def cases(device: torch.device) -> list[Case]:
    """One large matrix, as most of a model is."""
    rows = 2048 if device.type == "cpu" else 65536
    return [optimizer_case((rows, 4096))]


def optimizer_case(shape: tuple[int, int]) -> Case:
    return Case(
        name="OrthoAdamW",
        shape=shape,
        dtype=torch.float32,
        inputs=partial(make_inputs, shape),
        contenders={
            "fluxcore": lambda: Step("ortho", lambda p: OrthoAdamW(p, **OPTIONS)),
            "fluxcore, update": lambda: Step("update", lambda p: OrthoAdamW(p, **OPTIONS, project="update")),
            "fluxcore OrthoGrad(AdamW)": lambda: Step("ortho", lambda p: OrthoGrad(AdamW(p, **OPTIONS))),
            "torch AdamW(foreach)": lambda: Step("adamw", lambda p: AdamW(p, **OPTIONS, foreach=True)),
            "torch AdamW(fused)": lambda: Step("adamw", lambda p: AdamW(p, **OPTIONS, fused=True)),
            "pytorch_optimizer OrthoGrad": pytorch_optimizer,
        },
        truth=truth,
        tolerance=1e-5,
        bytes_moved=36 * shape[0] * shape[1],
    )


class Step:
    """Steps on; a new input begins anew, so that what is checked is the first step."""

    def __init__(self, name: str, make: Callable[[Sequence[Tensor]], Optimizer]) -> None:
        self.name, self.make = name, make
        self.seen: Tensor | None = None

    def __call__(self, weight: Tensor, gradient: Tensor) -> Answer:
        """The weights after one more step."""
        if self.seen is not weight:
            self.seen = weight
            self.parameter = torch.nn.Parameter(weight.clone())
            self.parameter.grad = gradient.clone()
            self.optimizer = self.make([self.parameter])
        self.optimizer.step()
        return {self.name: self.parameter.detach()}


def truth(weight: Tensor, gradient: Tensor) -> Answer:
    zeros = torch.zeros_like(weight)
    exact = {
        name: ortho_adamw_step(weight, gradient, zeros, zeros, step=1, project_update=name == "update", **OPTIONS)[0]
        for name in ("ortho", "update")
    }
    parameter = torch.nn.Parameter(weight.double())
    parameter.grad = gradient.double()
    AdamW([parameter], **OPTIONS).step()
    return exact | {"adamw": parameter.detach()}


def pytorch_optimizer() -> Step:
    if find_spec("pytorch_optimizer") is None:
        raise NotInstalledError("pytorch_optimizer")
    from pytorch_optimizer import OrthoGrad as Theirs

    return Step("ortho", lambda p: Theirs(AdamW(p, **OPTIONS)))


def make_inputs(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights of a layer at its beginning, and a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    weight, gradient = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return 0.02 * weight, 1e-3 * gradient


def bench_optim(measure: Callable[[], None]) -> None:
    measure()
