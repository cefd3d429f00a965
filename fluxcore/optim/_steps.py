"""Steps and projections that kernels make for many parameters at once, gathered by device."""

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluxcore import _core
from fluxcore.backends import Backend

if TYPE_CHECKING:
    from fluxcore.kernels.ortho import OrthoRow


class Projections:
    """Gradients to be made perpendicular to their weights."""

    def __init__(self) -> None:
        self._cpp: list[tuple[int, int, int]] = []
        self._triton: defaultdict[torch.device, list[OrthoRow]] = defaultdict(list)

    def add(self, backend: Backend, weight: Tensor, gradient: Tensor) -> None:
        """Gather one; float32, laid out alike, without gaps."""
        if backend == "cpp":
            self._cpp.append((weight.data_ptr(), gradient.data_ptr(), weight.numel()))
            return
        from fluxcore.kernels.ortho import OrthoRow

        self._triton[weight.device].append(OrthoRow(weight.detach(), gradient))

    def run(self) -> None:
        """Project all."""
        if self._cpp:
            _core.orthogonalize(self._cpp, torch.get_num_threads())
        for rows in self._triton.values():
            from fluxcore.kernels.ortho import launch_orthogonalize

            launch_orthogonalize(rows)


class Steps:
    """Steps of AdamW with the gradient, or the update, projected."""

    def __init__(self) -> None:
        # By what the C++ kernel takes once a call: lr, both betas, eps, weight decay, whether updates are projected.
        self._cpp: defaultdict[
            tuple[float, float, float, float, float, bool], list[tuple[int, int, int, int, int, float, float]]
        ] = defaultdict(list)
        self._triton: defaultdict[tuple[torch.device, bool], list[OrthoRow]] = defaultdict(list)

    def add(
        self,
        backend: Backend,
        tensors: tuple[Tensor, Tensor, Tensor, Tensor],
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        project_update: bool,
    ) -> None:
        """Gather weight, gradient and both moments; float32, laid out alike, without gaps."""
        corrections = (1 - betas[0] ** step, 1 - betas[1] ** step)
        if backend == "cpp":
            weight, gradient, exp_avg, exp_avg_sq = (x.data_ptr() for x in tensors)
            row = (weight, gradient, exp_avg, exp_avg_sq, tensors[0].numel(), *corrections)
            self._cpp[lr, *betas, eps, weight_decay, project_update].append(row)
            return
        from fluxcore.kernels.ortho import AdamOptions, OrthoRow

        options = AdamOptions(lr, *betas, eps, weight_decay, *corrections)
        parameter = tensors[0]
        table = self._triton[parameter.device, project_update]
        table.append(OrthoRow(parameter.detach(), tensors[1], tensors[2], tensors[3], options))

    def run(self) -> None:
        """Make all steps."""
        for options, rows in self._cpp.items():
            _core.ortho_adamw(rows, *options, torch.get_num_threads())
        for (_, project_update), table in self._triton.items():
            from fluxcore.kernels.ortho import launch_ortho_adamw

            launch_ortho_adamw(table, project_update)
