"""The keys of training on K ergodic components."""

from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, ClassVar

from fluxcore.data.text import Corpus, in_parts
from fluxcore.training.config import ConfigError
from fluxcore.training.early_stopping import StopConfig
from fluxcore.training.hub_source import HubSource
from fluxcore.training.text_data import TextConfig
from fluxcore.training.trainer_config import TrainerConfig, require_at_least, require_within_run

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


TRAINING_KEYS = (
    "budget_tokens", "passes", "batch_size", "accumulation", "lr", "betas", "weight_decay", "warmup_steps", "schedule",
    "min_lr_ratio", "grad_clip", "mixed_precision", "log_every", "eval_every", "save_every", "keep_last",
    "generate_every",
)  # fmt: skip
"""What the group `training` sets."""


class DesignName(StrEnum):
    """What stays the same while K grows."""

    constant_total = auto()
    constant_per_component = auto()


class LabelsName(StrEnum):
    """Which documents make a component."""

    own = auto()
    shuffled = auto()


@dataclass(kw_only=True, slots=True)
class DatasetConfig(TextConfig):
    """The components: each source of the text is one."""

    name: ClassVar[str] = "dataset"
    label_column: str | None = None
    """Of a data set of the hub: the column whose labels are the components, in place of the data set as a whole."""
    categories: list[str] = field(default_factory=list)
    """With `label_column`: the labels to take; none given: all."""
    num_top_categories: int | None = None
    """Take only this many components, those of most tokens."""
    shards: Path | None = None
    """Folder of shards, in place of `sources`; each of its sources is a component."""
    hdf5: Path | None = None
    """File with `token_chunks`, `doc_idx_for_chunk` and `category_for_chunk`, in place of `sources`; each category is a
    component, and `vocab_size` that of its tokens."""
    chunk_tokens: int = 100
    """Of a chunk, which never crosses a document; what a document leaves over is not used."""
    val_fraction: float = 0.1
    """Share of the documents that no run trains on, chosen by a seeded hash."""
    eval_windows: int = 200
    """Chunks of each component to evaluate on: of the documents held out, the same for every run."""

    def __post_init__(self) -> None:
        TextConfig.__post_init__(self)
        for name, least in (("chunk_tokens", 2), ("eval_windows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`dataset.{name}` must be >= {least}, got {getattr(self, name)}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"`dataset.val_fraction` must be within (0, 1), got {self.val_fraction}")
        given = [name for name in ("sources", "shards", "hdf5") if getattr(self, name)]
        if self.hub and "sources" not in given:
            given.insert(0, "hub")
        if len(given) != 1:
            raise ConfigError(
                "one of `dataset.sources`, `dataset.shards` and `dataset.hdf5` must be given, got "
                + (" and ".join(given) or "none")
            )
        if self.label_column is not None and len(self.of_hub()) != 1:
            raise ConfigError(f"`dataset.label_column` goes with a single `hub:` source, got {self.sources}")
        if self.label_column is None and self.categories:
            raise ConfigError(f"`dataset.categories` goes with `dataset.label_column`, got {self.categories} alone")

    def of_hub(self) -> list[HubSource]:
        """The data sets of the hub, if there is nothing else; an empty list if there is."""
        others = [spec for spec in self.sources if not spec.startswith("hub:")]
        return [] if others else [*map(self.hub_source, self.sources), *self.hub]

    def corpus(self) -> Corpus:
        """As in `TextConfig`, with each label as a source if there is a `label_column`."""
        if self.label_column is None:
            return TextConfig.corpus(self)
        (source,) = self.of_hub()
        found = source.corpus(label_column=self.label_column, labels=self.categories)
        return in_parts(found, self.part_bytes) if self.part_bytes else found

    def paths(self) -> list[Path]:
        """As in `TextConfig`."""
        return TextConfig.paths(self) if self.hdf5 is None else [self.hdf5]

    def identity(self) -> dict[str, Any]:
        """As in `TextConfig`: which chunks are used changes none."""
        unused = ("num_top_categories", "val_fraction", "eval_windows")
        return {key: value for key, value in TextConfig.identity(self).items() if key not in unused}

    def known_count(self) -> int | None:
        """Number of components as far as the keys tell; None where only the data does."""
        if self.shards is not None or self.hdf5 is not None or "embedded" in self.sources:
            return self.num_top_categories
        count = len(self.sources) + len(self.hub) if self.label_column is None else len(self.categories) or None
        if self.num_top_categories is None or count is None:
            return count
        return min(count, self.num_top_categories)


@dataclass(kw_only=True, slots=True)
class ErgodicConfig(TrainerConfig):
    """Keys of `python -m fluxcore.trainers.ergodic`, besides those of every trainer.

    A run trains on the first K components of a chain. The chains are the rotations of one order of all components, so
    that the subsets of a chain are nested, and each component is first in one of them.
    """

    name: ClassVar[str] = "ergodic"
    dataset: DatasetConfig
    """Components and evaluation windows."""
    training: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(TRAINING_KEYS))
    """Keys of this configuration under the name of their group: training.batch_size replaces batch_size."""
    k: int = 1
    """Number of components to train on."""
    chain: int = 0
    """Which rotation; 0 to the number of components less 1."""
    subset: list[str] = field(default_factory=list)
    """These components, in place of `k` and `chain`; the first one is compared with its run alone."""
    design: DesignName = DesignName.constant_total
    """constant_total: `budget_tokens` for all components together; constant_per_component: for each of them."""
    labels: LabelsName = LabelsName.own
    """own: as the data has them; shuffled: the control, whose components are documents of all, drawn at random, and as
    many."""
    budget_tokens: int = 50_176_000
    """Training tokens, all `passes` counted; rounded down to whole steps."""
    passes: int = 1
    """How often each chunk is seen."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When to end before the budget is spent; runs that end early have not seen equally many tokens."""

    def __post_init__(self) -> None:
        for key, value in self.training.items():
            if value is None:
                continue
            if key in ("training", "dataset") or key not in type(self).__dataclass_fields__:
                raise ConfigError(f"`training.{key}` is no key of this configuration")
            setattr(self, key, value)
        self.training = {}
        TrainerConfig.__post_init__(self)
        for key in ("k", "budget_tokens", "passes"):
            require_at_least(self, key, 1)
        require_at_least(self, "chain", 0)
        budgets = [key for key in ("steps", "tokens", "epochs") if getattr(self, key) is not None]
        if budgets:
            raise ConfigError(
                f"`{budgets[0]}` is no budget of this trainer\n\nGive budget_tokens, and passes for epochs."
            )
        if self.seq is not None and self.seq != self.dataset.chunk_tokens:
            raise ConfigError(f"`seq` must be dataset.chunk_tokens = {self.dataset.chunk_tokens}, got {self.seq}")
        count = self.dataset.known_count()
        if count is not None:
            self.check_count(count)
        require_within_run(self, self.run_steps())

    def check_count(self, components: int) -> None:
        """Refuse K beyond the number of components."""
        if self.count() > components:
            raise ConfigError(f"`k` must be at most the {components} components, got {self.count()}")
        if self.chain >= components:
            raise ConfigError(f"`chain` must be below the {components} components, got {self.chain}")

    def count(self) -> int:
        """K."""
        return len(self.subset) or self.k

    def total_tokens(self) -> int:
        """Of the run, all passes counted."""
        return self.budget_tokens * (self.count() if self.design is DesignName.constant_per_component else 1)

    def steps_a_pass(self) -> int:
        """Optimizer steps."""
        return self.total_tokens() // (self.passes * self.batch_size * self.accumulation * self.dataset.chunk_tokens)

    def run_steps(self) -> int:
        """Optimizer steps of the run."""
        if self.steps_a_pass() < 1:
            raise ConfigError(f"`budget_tokens` must be enough for a step a pass, got {self.budget_tokens}")
        return self.steps_a_pass() * self.passes
