"""Weights of a mixture's sources that follow how hard each is for the model at present."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fluxcore.data.argument_checks import whole


class Difficulty(NamedTuple):
    """What a sample of a source costs a model."""

    mean: float
    """Of the loss, nats a token."""
    variance: float
    """Of the loss over the sample's chunks."""


class Autocurriculum:
    """Turns the difficulty of each source into weights for `Loader.set_weights`.

    With c = mean + `spread` sqrt(variance), in nats, of each source, and g = c less its mean over the sources:

    | rule | what happens |
    |---|---|
    | exponentiated_gradient | weights are multiplied by e^(rate g) |
    | additive | a velocity v becomes momentum v + rate g, and is added to the weights |
    | learning_progress | weights in proportion to how fast c changes, up or down, averaged with `momentum` |

    The first two go where the loss is high, the third where it moves, which leaves alone what is too hard to learn and
    what was learnt. After each update the weights are scaled to the sum 1 with none below `floor`. No rule knows the
    sources' order: to permute them permutes the weights, bit for bit.

    Args:
        names: Of the sources; two at least.
        rule: One of the three above.
        rate: > 0. A nat; of `learning_progress` without effect.
        floor: > 0 and at most 1 / number of sources; the least weight.
        momentum: Within [0, 1); 0 forgets at once. Of `exponentiated_gradient` without effect.
        spread: >= 0, what a standard deviation counts beside the mean.
        weights: To begin with, > 0, in any proportion; lifted to the floor. None: equal ones.
    Raises:
        ValueError: an argument out of range, or fewer than two sources.

    Source: exponentiated gradient, Kivinen and Warmuth, 1997; learning progress, Graves et al., arXiv:1704.03003, and
    Portelas et al., arXiv:1910.07224.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rule: str = "exponentiated_gradient",
        rate: float = 0.1,
        floor: float = 0.02,
        momentum: float = 0.9,
        spread: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        _check_names(names)
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}")
        if not 0 < rate < math.inf:
            raise ValueError(f"`rate` must be finite and > 0, got {rate}")
        if not 0 < floor <= 1 / len(names):
            raise ValueError(
                f"`floor` must be > 0 and at most 1 / {len(names)} sources = {1 / len(names):.4g}, got {floor}"
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be within [0, 1), got {momentum}")
        if not 0 <= spread < math.inf:
            raise ValueError(f"`spread` must be finite and >= 0, got {spread}")
        self.names = tuple(names)
        self.rule, self.rate, self.floor, self.momentum, self.spread = rule, rate, floor, momentum, spread
        start = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
        self._check_keys("weights", start)
        if not all(0 < weight < math.inf for weight in start.values()):
            raise ValueError(f"`weights` must be finite and > 0, got {start}")
        self._weights = floored([start[name] for name in names], floor)
        self._velocity = [0.0] * len(names)
        self._last: list[float] | None = None
        self.updates = 0
        """How often the weights were brought up to date."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each source: sum 1, none below the floor."""
        return dict(zip(self.names, self._weights, strict=True))

    def update(self, difficulty: Mapping[str, Difficulty]) -> dict[str, float]:
        """Take in the difficulty of every source, and return the weights from now on.

        Raises:
            ValueError: a source is missing or unknown, a mean or variance is NaN or infinite, or a variance below 0;
                the weights stay as they were.
        """
        self._check_keys("difficulty", difficulty)
        for name, (mean, variance) in difficulty.items():
            if not (math.isfinite(mean) and 0 <= variance < math.inf):
                raise ValueError(
                    f"`difficulty` must be a finite mean and a finite variance >= 0, got {mean} and {variance} for"
                    f" {name!r}\n\nA loss that is not finite says that the model has diverged."
                )
        costs = [self._cost(difficulty[name]) for name in self.names]
        self._weights, self._velocity = RULES[self.rule](self, costs)
        self._last = costs
        self.updates += 1
        return self.weights

    def state_dict(self) -> dict[str, Any]:
        """Plain values, by the names of the sources."""
        return {
            "rule": self.rule,
            "weights": self.weights,
            "velocity": dict(zip(self.names, self._velocity, strict=True)),
            "last": None if self._last is None else dict(zip(self.names, self._last, strict=True)),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            TypeError: it is no mapping.
            ValueError: it is of another rule or of other sources, or holds what no curriculum comes to; nothing has
                changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"`state` must be what `state_dict` returned, got {type(state).__name__}")
        if state.get("rule") != self.rule:
            raise ValueError(f"`state` must be of the rule {self.rule}, got {state.get('rule')}")
        for field in ("weights", "velocity", "last", "updates"):
            if field not in state:
                raise ValueError(f"`state` must have the field {field!r}, got {list(state)}")
        weights, velocity = self._numbers(state, "weights"), self._numbers(state, "velocity")
        if min(weights) < 0 or abs(math.fsum(weights) - 1) > 1e-6:
            raise ValueError(f"`state` must hold weights >= 0 with the sum 1, its 'weights' is {state['weights']}")
        last = None if state["last"] is None else self._numbers(state, "last")
        updates = whole(state["updates"], "state['updates']", low=0, high=1 << 62)
        self._weights, self._velocity, self._last, self.updates = weights, velocity, last, updates

    def _numbers(self, state: Mapping[str, Any], field: str) -> list[float]:
        """One number a source, from a field of a state."""
        values = state[field]
        if not isinstance(values, Mapping) or set(values) != set(self.names):
            raise ValueError(f"`state` must name each source once ({', '.join(self.names)}), its {field!r} is {values}")
        numbers = [values[name] for name in self.names]
        if not all(isinstance(number, int | float) and abs(number) <= sys.float_info.max for number in numbers):
            raise ValueError(f"`state` must hold finite numbers, its {field!r} is {values}")
        return [float(number) for number in numbers]

    def _check_keys(self, argument: str, values: Mapping[str, object]) -> None:
        if set(values) != set(self.names):
            raise ValueError(
                f"`{argument}` must name each source once ({', '.join(self.names)}), got"
                f" {', '.join(map(repr, values)) or 'none'}"
            )

    def _cost(self, difficulty: Difficulty) -> float:
        # A loss beyond this is none; it keeps sums and products of costs finite.
        return min(max(difficulty.mean + self.spread * math.sqrt(difficulty.variance), -1e100), 1e100)

    def _exponentiated_gradient(self, costs: list[float]) -> tuple[list[float], list[float]]:
        gains = [self.rate * g for g in centred(costs)]
        largest = max(gains)
        grown = [w * math.exp(max(g - largest, -700.0)) for w, g in zip(self._weights, gains, strict=True)]
        return floored(grown, self.floor), self._velocity

    def _additive(self, costs: list[float]) -> tuple[list[float], list[float]]:
        velocity = [self.momentum * v + self.rate * g for v, g in zip(self._velocity, centred(costs), strict=True)]
        moved = [max(w + v, 0.0) for w, v in zip(self._weights, velocity, strict=True)]
        return floored(moved, self.floor), velocity

    def _learning_progress(self, costs: list[float]) -> tuple[list[float], list[float]]:
        if self._last is None:
            return self._weights, self._velocity
        progress = [
            self.momentum * v + (1 - self.momentum) * abs(now - before)
            for v, now, before in zip(self._velocity, costs, self._last, strict=True)
        ]
        return floored(progress, self.floor), progress


Rule = Callable[[Autocurriculum, list[float]], tuple[list[float], list[float]]]
RULES: dict[str, Rule] = {
    "exponentiated_gradient": Autocurriculum._exponentiated_gradient,
    "additive": Autocurriculum._additive,
    "learning_progress": Autocurriculum._learning_progress,
}
"""Name -> costs of the sources to weights and velocities."""


def centred(values: list[float]) -> list[float]:
    """Values less their mean."""
    # fsum rounds once, whatever the order.
    mean = math.fsum(value / len(values) for value in values)
    return [value - mean for value in values]


def floored(weights: list[float], floor: float) -> list[float]:
    """Scale weights >= 0 to the sum 1 with none below the floor; equal ones where all are 0.

    Of all such weights the nearest in relative entropy: those that end at the floor are set to it, and the others keep
    their proportions.

    Args:
        weights: Finite.
        floor: At most 1 / number of weights.
    """
    largest = max(weights)
    if not largest > 0:
        return [1 / len(weights)] * len(weights)
    scaled = [weight / largest for weight in weights]
    held: set[float] = set()  # by value, so that equal weights stay equal
    while True:
        free = [weight for weight in scaled if weight not in held]
        if not free:
            return [1 / len(weights)] * len(weights)
        factor = (1 - floor * (len(scaled) - len(free))) / math.fsum(free)
        below = {weight for weight in free if weight * factor < floor}
        if not below:
            return [floor if weight in held else max(weight * factor, floor) for weight in scaled]
        held |= below


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(
            f"`names` must be of two sources at least, got {list(names)}"
            "\n\nA single source has nothing to be weighed against: train on it without a curriculum."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"`names` must differ, got {list(names)}")
