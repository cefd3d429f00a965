"""The keys that every trainer has."""

from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, ClassVar

from fluxcore.training.config import ConfigError, ConfigFile
from fluxcore.training.schedule import ScheduleName


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights stay float32."""

    fp32 = auto()
    bf16 = auto()
    fp16 = auto()


class TrackerName(StrEnum):
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard = auto()
    wandb = auto()


class WandbMode(StrEnum):
    """Where W&B sends metrics."""

    online = auto()
    offline = auto()
    disabled = auto()


class LogLevel(StrEnum):
    """Least severe message that `log.txt` and the terminal get."""

    debug = auto()
    info = auto()
    warning = auto()
    error = auto()


@dataclass(kw_only=True, slots=True)
class TrainerConfig(ConfigFile):
    """What is common to all trainers; each trainer's own configuration derives from it."""

    name: ClassVar[str] = "trainer"

    model: str = "micro"
    """Hugging Face name, folder, or a named configuration with random weights: micro, llama-tiny, gpt2-small."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Changes to a named configuration, for example +model_args.n_layer=2."""
    seq: int | None = None
    """Tokens in a sequence; divides the chunk length, and chunks are cut into such pieces. None: whole chunks."""
    batch_size: int = 8
    """Chunks in a micro-batch, over all ranks together, so that results do not depend on their number."""
    accumulation: int = 1
    """Micro-batches in an optimizer step."""
    steps: int | None = None
    """Optimizer steps; rounded down so that every epoch has the same number."""
    tokens: int | None = None
    """Training tokens, padding included, in place of `steps`."""
    epochs: int | None = None
    """Passes over the data, in place of `steps`. None of the three: one epoch."""
    lr: float = 6e-4
    """Peak learning rate of AdamW."""
    schedule: ScheduleName = ScheduleName.cosine
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = 100
    """Optimizer steps of linear warm-up; shorter than the run."""
    min_lr_ratio: float = 0.1
    """Final learning rate as a share of `lr`."""
    weight_decay: float = 0.1
    """Of matrices only: not of norms, biases."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay rates of AdamW's two moments."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0: not clipped."""
    seed: int = 0
    """Of weights, dropout and data order."""
    split_seed: int = 0
    """Of which documents are held out, and which chunks a budget leaves out; runs of several seeds share it."""
    mixed_precision: Precision = Precision.fp32
    """fp32, bf16 or fp16."""
    log_every: int = 10
    """Optimizer steps between lines of training metrics."""
    eval_every: int = 100
    """Steps between validations; 0: only at the end."""
    eval_chunks: int | None = None
    """Validate on this many of the held-out chunks, always the same. None: on all."""
    save_every: int = 500
    """Steps between checkpoints; 0: only at the best validations and at the end."""
    keep_last: int = 2
    """Checkpoints that are kept besides the best."""
    generate_every: int = 0
    """Steps between text samples; 0: none."""
    prompts: list[str] = field(default_factory=lambda: ["The "])
    """Beginnings of the samples."""
    sample_tokens: int = 100
    """Tokens in a sample at most; the model's context is not exceeded."""
    top_p: float = 0.9
    """Samples are drawn from the likeliest tokens of this total probability."""
    tokenizer: Path | None = None
    """`tokenizer.json` for the samples. None: the one beside the data."""
    run_dir: Path | None = None
    """Folder of the run. None: outputs/NAME/DATE-TIME."""
    resume: str = "auto"
    """auto: go on from the last checkpoint of `run_dir`, if any; never: start anew; or a checkpoint's folder."""
    trackers: list[TrackerName] = field(default_factory=lambda: [TrackerName.tensorboard])
    """tensorboard, wandb."""
    wandb_mode: WandbMode | None = None
    """online, offline (into `run_dir`, without a network) or disabled. None: as WANDB_MODE of the environment or `.env`
    says, or online."""
    wandb_project: str = "fluxcore"
    """W&B project."""
    sweep_processes: int = 1
    """Of --multirun: runs that train at once, each in a process of its own."""
    log_level: LogLevel = LogLevel.info
    """debug, info, warning or error."""

    def may_be_extended(self) -> bool:
        """Whether a run that goes on may have another number of `steps`: whether all before is the same with it."""
        return False

    def __post_init__(self) -> None:
        self.coerce()
        for name in ("batch_size", "accumulation", "log_every", "keep_last", "sample_tokens", "sweep_processes"):
            require_at_least(self, name, 1)
        for name in ("seed", "split_seed", "warmup_steps", "weight_decay", "grad_clip"):
            require_at_least(self, name, 0)
        for name in ("eval_every", "save_every", "generate_every"):
            require_at_least(self, name, 0)
        for name in ("seq", "steps", "tokens", "epochs", "eval_chunks"):
            if getattr(self, name) is not None:
                require_at_least(self, name, 1)
        for name in ("seed", "split_seed"):
            if getattr(self, name) >= 1 << 63:
                raise ValueError(f"`{name}` must be < 2^63, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"`lr` must be > 0 and finite, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` must be two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"`min_lr_ratio` must be within [0, 1], got {self.min_lr_ratio}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be within (0, 1], got {self.top_p}")
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"`{given[0]}` and `{given[1]}` are both given\n\nKeep one of them, and set the other to null."
            )


def require_at_least(config: TrainerConfig, name: str, least: int) -> None:
    """Refuse a number that is too small, or no number at all (NaN)."""
    value = getattr(config, name)
    if not value >= least:
        raise ValueError(f"`{name}` must be >= {least}, got {value}")


def require_within_run(config: TrainerConfig, steps: int) -> None:
    """Refuse a warm-up or an interval between validations that a run of so many steps never comes to the end of.

    Raises:
        ConfigError: which, and how long the run is.
    """
    if config.warmup_steps >= steps and config.warmup_steps > 0:
        raise ConfigError(
            f"`warmup_steps` must be shorter than the run of {steps} steps, got {config.warmup_steps}"
            "\n\nTrain longer, or set warmup_steps lower."
        )
    if config.eval_every > steps:
        raise ConfigError(
            f"`eval_every` must be at most the {steps} steps of the run, got {config.eval_every}"
            "\n\nTrain longer, or set eval_every lower; 0 validates at the end alone."
        )
