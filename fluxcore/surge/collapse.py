"""Surge and collapse in a training loop."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fluxcore.ops._checks import check_choice
from fluxcore.ops.kth_magnitude import Scope
from fluxcore.ops.prune_regrow import REGROW, Regrow, prune_regrow_
from fluxcore.surge._checks import check_numbers, check_owners, check_scope, checked_triggers, once_each
from fluxcore.surge.parameters import prunable_parameters
from fluxcore.surge.triggers import Signals, Trigger

NoiseScale = Literal["init", "current", "absolute"]
NOISE_SCALES = ("init", "current", "absolute")


class SurgeReport(NamedTuple):
    """What happened after a step."""

    step: int
    collapsed: bool
    """Whether weights were dropped."""
    surged: bool
    """Whether weights were brought back."""
    reasons: tuple[str, ...]
    """Names of the triggers that fired."""
    drop_fraction: float
    """Of the active weights; 0 if nothing was dropped."""
    dropped: dict[str, int]
    regrown: dict[str, int]
    active: dict[str, int]
    """By parameter, afterwards."""
    density: float
    """Share of active weights, of all that can be pruned."""

    def summary(self) -> dict[str, Any]:
        """The report as one line of a log: sums over the parameters, in types that JSON has."""
        return {
            "collapsed": self.collapsed,
            "surged": self.surged,
            "reasons": list(self.reasons),
            "drop_fraction": self.drop_fraction,
            "dropped": sum(self.dropped.values()),
            "regrown": sum(self.regrown.values()),
            "density": self.density,
        }


class SurgeCollapse:
    """Drops a model's smallest weights and brings dropped ones back while it trains.

    Call `step` once after each step of the optimizer, before the gradients are cleared. Dropped weights are held at 0
    until they are regrown. When both collapse and surge are due, both happen, and no weight dropped is regrown. A step
    that raises leaves model, masks and triggers as they were, and does not count. Masks follow the model to another
    device.

    Args:
        model: Its weights are pruned, in place.
        optimizer: Its moments are reset where weights are dropped or regrown; None resets nothing.
        collapse: Drop when one of these fires.
        surge: Regrow when one of these fires.
        drop_fraction: Within [0, 1], of the active weights.
        cosine_steps: The drop fraction falls to 0 at this step along half a cosine; None keeps it.
        regrow: "noise" or "random", at random positions; "gradient", where the gradient is largest (RigL; parameters
            without gradient regrow nothing then).
        regrow_fraction: Within [0, 1], of the inactive positions.
        noise_std: >= 0, of regrown weights, times the scale.
        noise_scale: "absolute", 1; "init", the standard deviation of each parameter now; "current", that of its active
            weights when they are regrown. Of finite weights alone.
        scope: Fractions of each parameter, or "global", of all together; not N:M.
        parameters: By name, those to prune; None takes `prunable_parameters(model)`.
        seed: Of the random numbers, with the step and the parameter's name.

    Raises:
        TypeError: an option of another type, parameters that are not float32, bfloat16 or float16.
        ValueError: an option out of range, or nothing to prune.

    Source: Evci et al., "Rigging the lottery" (arXiv:1911.11134); Mocanu et al., SET (arXiv:1707.04780).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        collapse: Sequence[Trigger] = (),
        surge: Sequence[Trigger] = (),
        drop_fraction: float = 0.5,
        cosine_steps: int | None = None,
        regrow: Regrow = "noise",
        regrow_fraction: float = 1.0,
        noise_std: float = 1.0,
        noise_scale: NoiseScale = "init",
        scope: Scope = "tensor",
        parameters: Mapping[str, nn.Parameter] | None = None,
        seed: int = 0,
    ) -> None:
        check_owners(model, optimizer, parameters)
        check_choice("regrow", regrow, REGROW)
        check_choice("noise_scale", noise_scale, NOISE_SCALES)
        check_scope(scope)
        check_numbers(drop_fraction, regrow_fraction, noise_std, cosine_steps, seed)
        self.collapse, self.surge = checked_triggers("collapse", collapse), checked_triggers("surge", surge)
        if self.surge and regrow == "none":
            raise ValueError(
                '`surge` must be empty for `regrow="none"`, got triggers\n\nSay how weights come back: regrow="noise".'
            )
        self.parameters = once_each(prunable_parameters(model) if parameters is None else parameters)
        self._model = model
        self.optimizer = optimizer
        self.drop_fraction, self.cosine_steps = drop_fraction, cosine_steps
        self.regrow: Regrow = regrow
        self.regrow_fraction, self.noise_std = regrow_fraction, noise_std
        self.noise_scale, self.scope, self.seed = noise_scale, scope, seed
        self.masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()}
        """True = active."""
        self._init_std = {name: _std(p) for name, p in self.parameters.items()}
        self._steps = 0
        self._sparse = False
        # Parameters are checked now, by a call that changes nothing: bad ones must not stop a run in its middle.
        self._call(0.0, 0.0, dict.fromkeys(self.parameters, noise_std))

    @property
    def steps(self) -> int:
        """How often `step` was called."""
        return self._steps

    def step(self, loss: float | Tensor | None = None) -> SurgeReport | None:
        """Count a step of the optimizer, collapse and surge if that is due, and hold dropped weights at 0.

        Args:
            loss: Of this step, for triggers that want it.

        Returns:
            What happened; None if nothing was due.
        """
        self._follow()
        triggers = (*self.collapse, *self.surge)
        before = [copy.deepcopy(trigger.state_dict()) for trigger in triggers]
        self._steps += 1
        try:
            report = self._ask_and_act(loss)
        except Exception:
            self._steps -= 1
            for trigger, state in zip(triggers, before, strict=True):
                trigger.load_state_dict(state)
            raise
        # Last, for what may raise must come before anything is written.
        self._hold()
        return report

    def _ask_and_act(self, loss: float | Tensor | None) -> SurgeReport | None:
        signals = Signals(step=self._steps, loss=loss, parameters=list(self.parameters.values()))
        # Every trigger is asked at every step: some keep count.
        collapsing, surging = (
            [trigger for trigger in triggers if trigger.fires(signals)] for triggers in (self.collapse, self.surge)
        )
        if not collapsing and not surging:
            return None
        reasons = dict.fromkeys(type(trigger).__name__ for trigger in (*collapsing, *surging))
        return self._act(bool(collapsing), bool(surging), tuple(reasons))

    def fraction_at(self, step: int) -> float:
        """The drop fraction of a collapse at `step`."""
        if self.cosine_steps is None:
            return self.drop_fraction
        return self.drop_fraction * (1 + math.cos(math.pi * min(1.0, step / self.cosine_steps))) / 2

    def _act(self, collapsing: bool, surging: bool, reasons: tuple[str, ...]) -> SurgeReport:
        fraction = self.fraction_at(self._steps) if collapsing else 0.0
        counts = self._call(fraction, self.regrow_fraction if surging else 0.0, self._noise())
        self._sparse = True
        dropped, regrown, active = (dict.fromkeys(self.parameters, 0) for _ in range(3))
        for one in counts:
            for found, values in zip((dropped, regrown, active), (one.dropped, one.regrown, one.active), strict=True):
                found.update(zip(one.names, values.tolist(), strict=True))
        total = sum(p.numel() for p in self.parameters.values())
        density = sum(active.values()) / max(1, total)
        return SurgeReport(self._steps, collapsing, surging, reasons, fraction, dropped, regrown, active, density)

    def _call(self, drop_fraction: float, regrow_fraction: float, noise: dict[str, float]) -> list[Any]:
        """`prune_regrow_`; those without gradient apart if gradients are needed."""
        options: dict[str, Any] = {"seed": self.seed, "step": self._steps, "scope": self.scope}
        options |= {"masks": self.masks, "optimizer": self.optimizer, "drop_fraction": drop_fraction}
        growing = regrow_fraction > 0
        if not growing or self.regrow != "gradient":
            if growing or self.regrow in ("noise", "random"):
                options |= {"regrow": self.regrow, "regrow_fraction": regrow_fraction, "noise_std": noise}
            return [prune_regrow_(self.parameters, **options)]
        # In two calls: each parameter is a selection of its own, so it does not matter which call it is in.
        with_gradient = {name: p for name, p in self.parameters.items() if p.grad is not None}
        without = {name: p for name, p in self.parameters.items() if p.grad is None}
        if without and self.scope == "global":
            raise ValueError(
                f'all pruned parameters must have gradients for `regrow="gradient"` with scope "global", '
                f"got none for {next(iter(without))!r}\n\nLeave them out of `parameters`."
            )
        grow: dict[str, Any] = {"regrow": "gradient", "regrow_fraction": regrow_fraction, "noise_std": noise}
        if with_gradient and without:
            prune_regrow_(without, **{**options, "drop_fraction": 0.0})  # which changes nothing, but may raise
        reports = [prune_regrow_(with_gradient, **options, **grow)] if with_gradient else []
        return [*reports, prune_regrow_(without, **options)] if without else reports

    def _noise(self) -> dict[str, float]:
        if self.noise_scale == "absolute" or self.regrow == "gradient":
            return dict.fromkeys(self.parameters, self.noise_std if self.regrow != "gradient" else 0.0)
        if self.noise_scale == "init":
            return {name: self.noise_std * std for name, std in self._init_std.items()}
        return {name: self.noise_std * _std(p.detach()[self.masks[name]]) for name, p in self.parameters.items()}

    @torch.no_grad()
    def _hold(self) -> None:
        if self._sparse:
            for name, parameter in self.parameters.items():
                parameter.masked_fill_(~self.masks[name], 0)

    def _follow(self) -> None:
        # A move to another device may keep the parameters, or replace them in their modules.
        in_model = dict(self._model.named_parameters())
        for name, parameter in list(self.parameters.items()):
            now = in_model.get(name, parameter)
            if now.shape != parameter.shape:
                raise ValueError(
                    f"`model` must keep its parameter {name!r} to have shape {tuple(parameter.shape)}, "
                    f"got {tuple(now.shape)}"
                )
            self.parameters[name] = now
        for name, parameter in self.parameters.items():
            if self.masks[name].device != parameter.device:
                self.masks[name] = self.masks[name].to(parameter.device)

    def state_dict(self) -> dict[str, Any]:
        """Steps, masks, scales and the triggers' states; the masks are copies."""
        return {
            "steps": self._steps,
            "sparse": self._sparse,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "init_std": dict(self._init_std),
            "triggers": [trigger.state_dict() for trigger in (*self.collapse, *self.surge)],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, made by an object with the same parameters and triggers.

        Raises:
            ValueError: other parameters or another number of triggers, or no such state; nothing is changed then.
        """
        triggers = (*self.collapse, *self.surge)
        missing = {"steps", "sparse", "masks", "init_std", "triggers"} - state_dict.keys()
        if missing:
            raise ValueError(
                f"`state_dict` must come from `SurgeCollapse.state_dict`, got one without {sorted(missing)}"
            )
        shapes = {name: tuple(mask.shape) for name, mask in state_dict["masks"].items()}
        if shapes != {name: tuple(mask.shape) for name, mask in self.masks.items()}:
            raise ValueError(f"`state_dict` must be of the parameters {list(self.masks)}, got {list(shapes)}")
        if len(state_dict["triggers"]) != len(triggers):
            raise ValueError(f"`state_dict` must have {len(triggers)} triggers, got {len(state_dict['triggers'])}")
        self._steps, self._sparse = state_dict["steps"], state_dict["sparse"]
        for name, mask in state_dict["masks"].items():
            self.masks[name] = mask.to(self.parameters[name].device, copy=True)
        self._init_std = dict(state_dict["init_std"])
        for trigger, state in zip(triggers, state_dict["triggers"], strict=True):
            trigger.load_state_dict(state)


def _std(weights: Tensor) -> float:
    """Standard deviation about 0, in float64; 0 for no element. NaN and infinite weights do not count."""
    weights = weights.detach()
    finite = weights[weights.isfinite()]
    if not finite.numel():
        return 0.0
    return float(torch.linalg.vector_norm(finite, dtype=torch.float64)) / math.sqrt(finite.numel())
