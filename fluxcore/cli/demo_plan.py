"""What the demo does, stage by stage, as the commands that a user would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Any

TRAINER = "fluxcore.trainers.curriculum"
BATCH_SIZE = 8
# At the usual 0.02 a model this narrow spends half of so short a run on finding out which tokens are frequent.
INITIALIZER_RANGE = 0.06
COLUMN = "lm.entropy_mean"
VAL_FRACTION = 0.08
SPLIT_SEED = 0  # the same for every seed: all runs are validated on the same documents, which the scorer never saw


class DemoOrder(StrEnum):
    """Orders that the demo can compare: all that a trainer takes, each with its usual options."""

    random = auto()
    ascending = auto()
    descending = auto()
    bucketed = auto()
    jittered = auto()
    interleaved = auto()
    paced = auto()


class DemoSize(StrEnum):
    """How much the demo does."""

    mini = auto()
    """A look at every stage in a minute; too little to learn anything from the result."""
    standard = auto()
    """At most 6 minutes on 2 cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The numbers behind a size."""

    budget_bytes: int
    """Of each source of the embedded text."""
    vocab_size: int
    chunk_tokens: int
    model_args: tuple[str, ...]
    """Changes to the model `micro`."""
    scorer_steps: int
    """At most; fewer where the text is smaller than that."""
    steps: int
    """At most, of each run that is compared."""
    eval_chunks: int


SCALES = {
    DemoSize.mini: Scale(
        budget_bytes=48 << 10, vocab_size=512, chunk_tokens=64, model_args=("n_layer=1", "n_embd=32", "n_head=2"),
        scorer_steps=20, steps=30, eval_chunks=16,
    ),
    DemoSize.standard: Scale(
        budget_bytes=900 << 10, vocab_size=2048, chunk_tokens=128, model_args=("n_layer=2",),
        scorer_steps=450, steps=700, eval_chunks=128,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPlan:
    """Paths and commands of one demo."""

    out: Path
    scale: Scale
    text: Sequence[Path] = ()
    dataset: str | None = None

    @property
    def tokens(self) -> Path:
        """The tokenised text."""
        return self.out / "tokens"

    @property
    def scorer(self) -> Path:
        """Run folder of the scorer."""
        return self.out / "scorer"

    @property
    def data(self) -> Path:
        """The scored data set."""
        return self.out / "data"

    @property
    def sorted(self) -> Path:
        """The sorted data set."""
        return self.out / "sorted"

    def run(self, order: DemoOrder, seed: int) -> Path:
        """Run folder of one of the runs that are compared."""
        return self.out / "runs" / f"{order}-{seed}"

    def tokenize_command(self) -> list[str]:
        """Text to token shards."""
        source = ["--embedded", "--budget-bytes", str(self.scale.budget_bytes)]
        if self.dataset is not None:
            source = ["--dataset", self.dataset]
        elif self.text:
            source = [part for path in self.text for part in ("--text", str(path))]
        return [
            "fluxcore", "tokenize", str(self.tokens), *source,
            "--vocab-size", str(self.scale.vocab_size), "--chunk-tokens", str(self.scale.chunk_tokens),
        ]  # fmt: skip

    def scorer_command(self, steps: int) -> list[str]:
        """Train the small model that scores."""
        return self._train(self.tokens, DemoOrder.random, 0, min(steps, self.scale.scorer_steps), self.scorer)

    def score_command(self) -> list[str]:
        """Entropy of every chunk."""
        checkpoint = self.scorer / "checkpoints" / "last"
        return ["fluxcore", "score", str(self.data), "--scorer", str(checkpoint), "--prefix", COLUMN.partition(".")[0]]

    def sort_command(self) -> list[str]:
        """The data set anew, lowest entropy first."""
        return ["fluxcore", "sort", str(self.data), str(self.sorted), "--by", COLUMN]

    def train_command(self, order: DemoOrder, seed: int, steps: int) -> list[str]:
        """One of the runs that are compared."""
        run_dir = self.run(order, seed)
        return [*self._train(self.sorted, order, seed, min(steps, self.scale.steps), run_dir), f"column={COLUMN}"]

    def report_command(self, runs: Sequence[Path]) -> list[str]:
        """The page."""
        options = {"--out": self.out, "--data": self.data, "--scorer": self.scorer / "checkpoints" / "last"}
        return ["fluxcore", "report", *map(str, runs), *(str(p) for option in options.items() for p in option)]

    def _train(self, data: Path, order: DemoOrder, seed: int, steps: int, run_dir: Path) -> list[str]:
        settings: dict[str, Any] = {
            "data": data,
            "order": order,
            "run_dir": run_dir,
            "seed": seed,
            "split_seed": SPLIT_SEED,
            "val_fraction": VAL_FRACTION,
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "lr": 3e-3,
            "warmup_steps": max(steps // 10, 1),
            "log_every": max(steps // 40, 1),
            "eval_every": max(steps // 20, 3),
            "eval_chunks": self.scale.eval_chunks,
            "save_every": max(steps // 4, 1),
            "log_level": "warning",
        }
        model = [
            f"+model_args.{change}" for change in (*self.scale.model_args, f"initializer_range={INITIALIZER_RANGE}")
        ]
        return ["python", "-m", TRAINER, *(f"{k}={v}" for k, v in settings.items()), *model]
