"""The keys of proximal policy optimisation."""

import math
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, ClassVar

from fluxcore.data import Autocurriculum
from fluxcore.rl import AdaptiveKLController, FixedKLController
from fluxcore.rl.rewards import Rewards
from fluxcore.training.config import ConfigError, ConfigFile
from fluxcore.training.text_data import TextConfig
from fluxcore.training.trainer_config import TrainerConfig, require_at_least


class AnswersName(StrEnum):
    """Where answers come from."""

    sampled = auto()
    given = auto()


class ValueName(StrEnum):
    """What says which return an answer can expect."""

    head = auto()
    network = auto()


class EstimatorName(StrEnum):
    """How the KL to the reference is measured."""

    full = auto()
    k1 = auto()
    k2 = auto()
    k3 = auto()


class ControllerName(StrEnum):
    """What the coefficient of KL does."""

    adaptive = auto()
    fixed = auto()


class RuleName(StrEnum):
    """What the weights of the sources do; see `fluxcore.data.Autocurriculum`."""

    none = auto()
    exponentiated_gradient = auto()
    additive = auto()
    learning_progress = auto()


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """One reward function."""

    name: str
    """repetition, ngram_repetition, length, regex, exact_match, log_likelihood, or module:function."""
    weight: float = 1.0
    """Times what it returns."""
    args: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""


@dataclass(kw_only=True, slots=True)
class LoraConfig(ConfigFile):
    """Low-rank adapters, see `fluxcore.rl.lora`; the reference is then the model without them, and takes no memory."""

    rank: int = 0
    """0: none, and all weights are trained."""
    alpha: float = 16.0
    """Over `rank` it is what the adapters' part is multiplied by."""

    def __post_init__(self) -> None:
        self.coerce()
        if self.rank < 0:
            raise ValueError(f"`lora.rank` must be >= 0, got {self.rank}\n\nSet lora.rank=0 to train all weights.")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"`lora.alpha` must be finite and > 0, got {self.alpha}")


@dataclass(kw_only=True, slots=True)
class KlConfig(ConfigFile):
    """What holds the policy near its reference."""

    estimator: EstimatorName = EstimatorName.full
    """full: over all classes; k1, k2, k3: from the token alone. k1 is taken from each token's reward, where only it has
    the gradient of KL; the others are added to the loss, where k1's would be 0 on average."""
    controller: ControllerName = ControllerName.adaptive
    """adaptive: the coefficient moves so that KL keeps to `target`; fixed: it stays."""
    coefficient: float = 0.1
    """Of a nat, in units of the reward; where it starts, or stays."""
    target: float = 0.01
    """Nats a token."""
    horizon: float = 20_000.0
    """Tokens of answers over which the coefficient moves by a fifth at most, about."""
    stop: float = 1.5
    """A step's updates end where KL between the policies before and after is beyond so many targets; 0: never."""

    def __post_init__(self) -> None:
        self.coerce()
        if not 0 < self.target < math.inf:
            raise ValueError(
                f"`kl.target` must be finite and > 0 nats a token, got {self.target}"
                "\n\nTo train without a bound, set kl.controller=fixed kl.coefficient=0 kl.stop=0."
            )
        if not 0 <= self.stop < math.inf:
            raise ValueError(f"`kl.stop` must be finite and >= 0, got {self.stop}")
        self.make()

    def make(self) -> FixedKLController:
        """The controller."""
        if self.controller is ControllerName.fixed:
            return FixedKLController(self.coefficient)
        return AdaptiveKLController(self.coefficient, target=self.target, horizon=self.horizon)


@dataclass(kw_only=True, slots=True)
class AutocurriculumConfig(ConfigFile):
    """How the weights of the sources follow their difficulty."""

    rule: RuleName = RuleName.exponentiated_gradient
    """exponentiated_gradient, additive, learning_progress; none: the chunks as they are, unweighted."""
    rate: float = 0.1
    """Of exponentiated_gradient and additive, a nat."""
    floor: float = 0.05
    """Least weight."""
    momentum: float = 0.9
    """Of additive and learning_progress."""
    spread: float = 1.0
    """What a standard deviation of the loss counts beside its mean."""
    every: int = 10
    """Steps between measurements of difficulty."""
    freeze_interval: int = 10
    """Steps after which the copy that difficulty is measured under is brought up to date."""
    chunks: int = 100
    """Of each source, in a measurement; other ones each time."""

    def __post_init__(self) -> None:
        self.coerce()
        for name in ("every", "freeze_interval", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"`autocurriculum.{name}` must be >= 1, got {getattr(self, name)}")

    def make(self, names: list[str]) -> Autocurriculum | None:
        """The curriculum over these sources; None for rule=none.

        Raises:
            ConfigError: a single source, or keys out of range.
        """
        if self.rule is RuleName.none:
            return None
        try:
            return Autocurriculum(
                names,
                rule=self.rule.name,
                rate=self.rate,
                floor=self.floor,
                momentum=self.momentum,
                spread=self.spread,
            )
        except ValueError as error:
            way_out = "\n\nSet autocurriculum.rule=none." if len(names) < 2 else ""
            raise ConfigError(f"`autocurriculum`: {error}{way_out}") from error


@dataclass(kw_only=True, slots=True)
class PPOKeys(TrainerConfig):
    """Keys of PPO itself, besides those of every trainer.

    A step draws batch_size x accumulation answers, and trains on them in `minibatches` optimizer steps an epoch.
    Dropout is off throughout, since it would make the policy another one than drew.
    """

    name: ClassVar[str] = "ppo"
    data: Path | None = None
    """Folder of shards whose chunks begin the prompts; `embedded`: a small one to try. None: made of `text`."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text to tokenise, in place of `data`, in chunks of `seq` tokens or as many as a prompt and an answer take."""
    val_fraction: float = 0.05
    """Share of the documents that are held out for validation, chosen by a seeded hash."""
    val_data: Path | None = None
    """Folder of shards to validate on, in place of held-out documents."""
    answers: AnswersName = AnswersName.sampled
    """sampled: drawn from the policy; given: the text that follows in the data (teacher forcing)."""
    prompt_tokens: list[int] = field(default_factory=lambda: [8, 16])
    """Least and greatest length of a prompt; a chunk's own length, drawn by a hash."""
    answer_tokens: int = 32
    """Longest answer."""
    temperature: float = 1.0
    """Of sampling, and of the probabilities that are trained."""
    pad_token: int | None = None
    """Id that fills rows up. None: the tokenizer's end token."""
    rewards: list[RewardConfig] = field(default_factory=lambda: [RewardConfig(name="repetition")])
    """Reward functions; their sum is the reward."""
    ppo_epochs: int = 4
    """Passes over the answers of a step."""
    minibatches: int = 1
    """Optimizer steps a pass; divides `accumulation`."""
    clip: float = 0.1
    """Of the ratio of probabilities."""
    value: ValueName = ValueName.head
    """head: a linear map of the policy's last hidden states; network: one of a copy of its body, which is trained on
    the values alone and takes as much memory again."""
    value_clip: float = 0.2
    """Of the change of the values."""
    value_weight: float = 0.5
    """Of the value loss."""
    entropy_bonus: float = 0.0
    """Times the entropy, in nats, taken from the loss."""
    gamma: float = 0.99
    """Discount a token."""
    lam: float = 0.95
    """Of the advantages."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters in place of all weights."""
    kl: KlConfig = field(default_factory=KlConfig)
    """What holds the policy near its reference, the model at the start."""
    autocurriculum: AutocurriculumConfig = field(default_factory=AutocurriculumConfig)
    """How the weights of the sources follow their difficulty."""

    def __post_init__(self) -> None:
        TrainerConfig.__post_init__(self)
        if (self.data is None) != self.text.given:
            raise ConfigError("one of `data` and `text.sources` must be given\n\nAdd data=embedded to try.")
        for name in ("answer_tokens", "ppo_epochs", "minibatches"):
            require_at_least(self, name, 1)
        for name in ("value_weight", "entropy_bonus"):
            require_at_least(self, name, 0)
        if self.accumulation % self.minibatches:
            raise ValueError(f"`minibatches` must divide `accumulation` = {self.accumulation}, got {self.minibatches}")
        if len(self.prompt_tokens) != 2 or not 1 <= self.prompt_tokens[0] <= self.prompt_tokens[1]:
            raise ValueError(f"`prompt_tokens` must be two lengths, 1 <= least <= greatest, got {self.prompt_tokens}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be finite and > 0, got {self.temperature}")
        if not 0 < self.clip < 1:
            raise ValueError(f"`clip` must be within (0, 1), got {self.clip}")
        if not self.value_clip > 0:
            raise ValueError(f"`value_clip` must be > 0, got {self.value_clip}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be within [0, 1], got {getattr(self, name)}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must be within (0, 1), got {self.val_fraction}")
        answers = self.batch_size * self.accumulation
        if self.kl.controller is ControllerName.adaptive and self.kl.horizon < answers * self.answer_tokens:
            raise ValueError(
                f"`kl.horizon` must be at least a step's {answers * self.answer_tokens} tokens, {answers} answers of up"
                f" to {self.answer_tokens}, got {self.kl.horizon:g}"
            )
        self.make_rewards()

    def make_rewards(self) -> Rewards:
        """The reward functions."""
        return Rewards([(each.name, each.weight, each.args) for each in self.rewards])
