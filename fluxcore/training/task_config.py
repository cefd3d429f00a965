"""The keys of trainers that choose among tasks."""

from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import ClassVar

from fluxcore.sharpness import Sharpness, SharpnessKind
from fluxcore.training.algorithmic_data import is_prime
from fluxcore.training.algorithmic_models import CLASSIFIERS
from fluxcore.training.link_loss import LinkLoss, LossName
from fluxcore.training.schedule import ScheduleName
from fluxcore.training.trainer_config import TrainerConfig, require_at_least


class TaskName(StrEnum):
    """What is learned."""

    add = auto()
    subtract = auto()
    multiply = auto()
    sparse_parity = auto()
    language = auto()


class PenaltyName(StrEnum):
    """Which statistic of the softmax is penalised."""

    non_max_sum = auto()
    neg_entropy = auto()
    neg_max_prob = auto()
    top_k_mass = auto()


@dataclass(kw_only=True, slots=True)
class TaskConfig(TrainerConfig):
    """A trainer's keys, and those of its task and loss. The defaults are the MLP of arXiv:2501.04697 on addition."""

    name: ClassVar[str] = "task"
    task: TaskName = TaskName.add
    """add, subtract, multiply (of two numbers modulo `modulus`), sparse_parity, or language."""
    modulus: int = 113
    """Of the tasks with numbers; a prime for multiply."""
    parity_bits: int = 3
    """Of sparse_parity: bits that the answer depends on."""
    noise_bits: int = 40
    """Of sparse_parity: other bits."""
    samples: int = 2000
    """Of sparse_parity: rows, for training and test together."""
    train_fraction: float = 0.4
    """Share of the rows that train, chosen at random by `split_seed`; the others test. Not of task=language."""
    full_batch: bool = True
    """Whether each step takes all training rows; else `batch_size` x `accumulation`. Not of task=language."""
    data: Path | None = None
    """Of task=language: folder of shards, as `fluxcore tokenize` makes it; `embedded`: a small one to try."""
    val_fraction: float = 0.05
    """Of task=language: share of the documents that are held out, chosen by a seeded hash."""
    val_data: Path | None = None
    """Of task=language: folder of shards to validate on, in place of held-out documents."""
    loss: LossName = LossName.softmax
    """softmax: the usual float32 cross entropy; residual: ours, which does not round to 0; stablemax."""
    penalty: PenaltyName | None = None
    """Sharpness penalty added to loss=residual: non_max_sum, neg_entropy, neg_max_prob or top_k_mass. None: none."""
    penalty_coef: float = 0.01
    """Factor of the penalty."""
    penalty_k: int | None = None
    """Of penalty=top_k_mass."""

    model: str = "mlp"
    """mlp or transformer (one layer); of task=language micro, llama-tiny, gpt2-small, a folder or Hugging Face name."""
    steps: int | None = 10_000
    """Optimizer steps; null to give `epochs` or, for task=language, `tokens`."""
    lr: float = 1e-2
    """Peak learning rate."""
    schedule: ScheduleName = ScheduleName.constant
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up; shorter than the run."""
    weight_decay: float = 0.0
    """Of matrices only: not of norms, biases."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    """Decay rates of the moments of the AdamW kinds."""
    grad_clip: float = 0.0
    """Largest gradient norm; 0: not clipped."""
    log_every: int = 100
    """Optimizer steps between lines of training metrics."""
    save_every: int = 1000
    """Steps between checkpoints; 0: only at the best validations and at the end."""

    def __post_init__(self) -> None:
        TrainerConfig.__post_init__(self)
        for key in ("modulus", "samples"):
            require_at_least(self, key, 2)
        require_at_least(self, "parity_bits", 1)
        require_at_least(self, "noise_bits", 0)
        for key in ("train_fraction", "val_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise ValueError(f"`{key}` must be within (0, 1), got {getattr(self, key)}")
        self.link_loss()
        if self.task is TaskName.language:
            self.check_language()
        else:
            self.check_rows()

    def may_be_extended(self) -> bool:
        """With a constant rate, more steps go on where fewer ended."""
        return self.schedule is ScheduleName.constant and self.task is not TaskName.language

    def link_loss(self) -> LinkLoss:
        """The loss that the keys describe."""
        if self.penalty is None:
            return LinkLoss(self.loss)
        return LinkLoss(self.loss, Sharpness(SharpnessKind(self.penalty.value), self.penalty_coef, self.penalty_k))

    def check_language(self) -> None:
        """Refuse keys of a language model that do not fit together."""
        if self.data is None:
            raise ValueError("`data` must be given for task=language\n\nAdd data=FOLDER, or data=embedded to try.")
        if self.model in CLASSIFIERS:
            raise ValueError(
                f"`model` must be a language model for task=language, got {self.model!r}\n\nAdd model=micro, or a path."
            )

    def check_rows(self) -> None:
        """Refuse keys of a classification task that do not fit together."""
        if self.model not in CLASSIFIERS:
            raise ValueError(
                f"`model` must be one of {', '.join(CLASSIFIERS)} for task={self.task}, got {self.model!r}"
            )
        if self.tokens is not None:
            raise ValueError(f"`tokens` is a budget of task=language only, got {self.tokens}\n\nGive steps or epochs.")
        if self.generate_every:
            raise ValueError(
                f"`generate_every` is of use for task=language only, got {self.generate_every}\n\nSet it to 0."
            )
        if self.task is TaskName.multiply and not is_prime(self.modulus):
            below, above = (
                next(n for n in range(self.modulus, end, step) if is_prime(n))
                for end, step in ((1, -1), (2 * self.modulus, 1))
            )
            raise ValueError(
                f"`modulus` must be prime for task=multiply, else some numbers have no inverse, got {self.modulus}"
                f"\n\nThe nearest primes are {below} and {above}."
            )
        bits = self.parity_bits + self.noise_bits
        if self.task is TaskName.sparse_parity and (bits > 62 or self.samples > 1 << bits):
            raise ValueError(
                f"`samples` must be at most 2^{bits}, as many rows as `parity_bits` + `noise_bits` bits can make, and"
                f" the bits at most 62, got {self.samples} rows of {bits} bits"
            )
