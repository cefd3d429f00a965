"""The keys of training with a sharpness penalty."""

from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import ClassVar

from fluxcore.sharpness import Sharpness, SharpnessKind
from fluxcore.training.config import ConfigError
from fluxcore.training.task_config import PenaltyName
from fluxcore.training.text_data import TextConfig
from fluxcore.training.trainer_config import TrainerConfig, require_within_run


class PositionsName(StrEnum):
    """Where in a sequence the penalty is taken."""

    all_but_last = auto()
    all = auto()


@dataclass(kw_only=True, slots=True)
class SharpnessConfig(TrainerConfig):
    """Keys of `python -m fluxcore.trainers.sharpness`, besides those of every trainer; the defaults are GPT-2 small's.

    The loss is cross entropy + `penalty_weight` x the mean of the penalty over its positions.
    """

    name: ClassVar[str] = "sharpness"
    data: Path | None = None
    """Folder of shards, as `fluxcore tokenize` makes it; `embedded`: a small one to try. None: made of `text`."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text to tokenise, in place of `data`."""
    val_fraction: float = 0.05
    """Share of the documents that are held out for validation, chosen by a seeded hash."""
    val_data: Path | None = None
    """Folder of shards to validate on, in place of held-out documents."""
    penalty: PenaltyName | None = PenaltyName.non_max_sum
    """non_max_sum: 1 - max p; neg_entropy: +H, nats; neg_max_prob: -max p; top_k_mass: 1 - sum of the k largest p."""
    penalty_weight: float = 0.01
    """Factor of the penalty; a negative one makes predictions flatter."""
    penalty_k: int = 5
    """Of penalty=top_k_mass."""
    penalty_positions: PositionsName = PositionsName.all_but_last
    """all_but_last or all of a sequence; padding and positions without a next token never count."""

    model: str = "gpt2-small"
    """micro, llama-tiny, gpt2-small (random weights), a folder or Hugging Face name."""
    seq: int | None = 1024
    """Tokens in a sequence; divides the chunk length of `data`."""
    accumulation: int = 4
    """Micro-batches in an optimizer step."""
    warmup_steps: int = 500
    """Optimizer steps of linear warm-up; shorter than the run."""
    eval_every: int = 500
    """Steps between validations, at most those of the run; 0: only at the end."""
    save_every: int = 1000
    """Steps between checkpoints; 0: only at the best validations and at the end."""
    generate_every: int = 500
    """Steps between text samples; 0: none."""
    prompts: list[str] = field(default_factory=lambda: ["The ", "In the ", "We "])
    """Beginnings of the samples."""

    def __post_init__(self) -> None:
        TrainerConfig.__post_init__(self)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must be within (0, 1), got {self.val_fraction}")
        if (self.data is None) != self.text.given:
            raise ConfigError("one of `data` and `text.sources` must be given\n\nAdd data=embedded to try.")
        self.sharpness()
        if self.steps is not None:
            require_within_run(self, self.steps)

    def sharpness(self) -> Sharpness | None:
        """The penalty that the keys describe."""
        if self.penalty is None:
            return None
        kind = SharpnessKind(self.penalty.name)
        return Sharpness(kind, self.penalty_weight, self.penalty_k if kind is SharpnessKind.TOP_K_MASS else None)
