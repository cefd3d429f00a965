"""Learning to continue text."""

from collections.abc import Iterator
from functools import partial

from accelerate import Accelerator
from torch import nn

from fluxcore.data.batch import Batch
from fluxcore.training.accumulation import micro_batches
from fluxcore.training.language_model import token_sums
from fluxcore.training.models import load_model
from fluxcore.training.sampling import Sampler
from fluxcore.training.target_entropy import target_entropy
from fluxcore.training.task import StepPart
from fluxcore.training.task_config import TaskConfig
from fluxcore.training.training_data import open_training_data


class LanguageTask:
    """A causal language model on shuffled chunks, validated on documents that it never sees.

    Args:
        config: Data, model, batch and budget.
        accelerator: Device and ranks.
    Raises:
        ConfigError: keys that do not fit together, or the data.
        OSError: data or a model that cannot be read.
    """

    def __init__(self, config: TaskConfig, accelerator: Accelerator) -> None:
        assert config.data is not None
        data = open_training_data(
            config, accelerator, config.data, val_path=config.val_data, val_fraction=config.val_fraction
        )
        self.accelerator = accelerator
        self.accumulation = config.accumulation
        self.seq = data.seq
        self.steps = data.plan.steps
        self.loss = config.link_loss()
        self.measure = partial(token_sums, loss=self.loss.without_penalty())
        self.validation = data.validation
        self.loader = data.shuffled_loader(accelerator, config.seed)
        self.model: nn.Module = load_model(
            config.model, vocab_size=data.vocab_size, context=data.seq, overrides=config.model_args
        )
        self.sampler = Sampler.from_config(config, data.tokenizer, context=data.seq) if config.generate_every else None

    def parts(self, model: nn.Module, batch: Batch) -> Iterator[StepPart]:
        """The micro-batches of the accumulation."""
        tokens, targets, _ = batch
        for part in micro_batches(self.accelerator, model, tokens, targets, count=self.accumulation, seq=self.seq):
            logits = model(input_ids=part.tokens).logits
            sums = token_sums(logits, part.targets, self.loss)
            logged = {name: getattr(sums, name).detach() for name in ("loss", "entropy", "max_prob")}
            logged["target_entropy"] = sums.tokens * target_entropy(part.targets.flatten(), logits.shape[-1])
            if self.loss.penalty is not None:
                logged["cross_entropy"] = self.measure(logits.detach(), part.targets).loss
            yield StepPart(sums.loss, part.scale, logged, sums.tokens)
