"""The keys of trainers that choose the order of their data."""

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any

from fluxcore.data import Order
from fluxcore.training.trainer_config import TrainerConfig


class OrderName(StrEnum):
    """Which chunks come first."""

    ascending = auto()
    descending = auto()
    random = auto()
    bucketed = auto()
    jittered = auto()
    interleaved = auto()
    paced = auto()


class PacingName(StrEnum):
    """How the pool of order=paced grows."""

    linear = auto()
    quadratic = auto()
    root = auto()
    step = auto()
    exponential = auto()
    log = auto()
    discrete = auto()


@dataclass(kw_only=True, slots=True)
class OrderedConfig(TrainerConfig):
    """A trainer's keys, and those of an order."""

    order: OrderName = OrderName.ascending
    """ascending, descending, random; bucketed: rising buckets, shuffled inside; jittered: ascending, shuffled within a
    moving window; interleaved: several passes from lowest to highest; paced: at random from a growing prefix."""
    column: str | None = None
    """Score to order by, for example lm.entropy_mean. Its mean is logged; order=random needs none."""
    window: int = 64
    """Of order=jittered: no chunk moves by so many places."""
    strides: int = 8
    """Of order=interleaved: passes in an epoch."""
    pacing: PacingName = PacingName.linear
    """Of order=paced: linear, quadratic, root, step, exponential, log or discrete."""
    pace_start: float = 0.1
    """Of order=paced: share of the chunks to begin with."""
    pace_full_at: float = 0.6
    """Of order=paced: share of the run after which all chunks take part."""
    pace_random: bool = False
    """Of order=paced: the control, which draws at the same pace from a random order."""
    then: OrderName | None = None
    """Order to go on with at `then_at`; order=random then=ascending then_at=0.1 is a warm start. None: the same."""
    then_at: float = 0.5
    """Share of the run after which `then` takes over."""

    def __post_init__(self) -> None:
        TrainerConfig.__post_init__(self)
        if not 0 < self.pace_start <= 1:
            raise ValueError(f"`pace_start` must be within (0, 1], got {self.pace_start}")
        if not 0 <= self.pace_full_at <= 1:
            raise ValueError(f"`pace_full_at` must be within [0, 1], got {self.pace_full_at}")
        if not 0 < self.then_at < 1:
            raise ValueError(f"`then_at` must be within (0, 1), got {self.then_at}")
        for order in (self.order, self.then):
            needs_column = order not in (None, OrderName.random) and not (order is OrderName.paced and self.pace_random)
            if self.column is None and needs_column:
                raise ValueError(f"`column` must name the score for order={order}\n\nAdd column=NAME.")
        self.make_order()

    def make_order(self) -> Order:
        """The order that the keys describe."""
        first = self._named(self.order)
        return first if self.then is None else first.then(self._named(self.then), at=self.then_at)

    def _named(self, name: OrderName) -> Order:
        options: dict[OrderName, dict[str, Any]] = {
            OrderName.jittered: {"window": self.window},
            OrderName.interleaved: {"n": self.strides},
            OrderName.paced: {
                "pacing": self.pacing.name,
                "start": self.pace_start,
                "full_at": self.pace_full_at,
                "random": self.pace_random,
            },
        }
        return Order.from_name(name.name, column=self.column, **options.get(name, {}))
