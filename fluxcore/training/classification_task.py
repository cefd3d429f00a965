"""Learning to classify rows that fit into memory."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn

from fluxcore.ops.softmax_stats import softmax_stats
from fluxcore.training.algorithmic_data import Operation, Rows, modular_rows, parity_rows, split_rows
from fluxcore.training.algorithmic_models import make_classifier
from fluxcore.training.classification_scores import confusion, macro_scores
from fluxcore.training.config import ConfigError
from fluxcore.training.link_loss import LinkLoss
from fluxcore.training.row_loader import RowLoader
from fluxcore.training.sampling import Sampler
from fluxcore.training.target_entropy import target_entropy
from fluxcore.training.task import StepPart
from fluxcore.training.task_config import TaskConfig, TaskName

ROWS_AT_ONCE = 1 << 14


class ClassificationTask:
    """Arithmetic modulo a number, or sparse parity.

    Args:
        config: The task, its split, batch and budget.
        accelerator: Device and ranks.
    Raises:
        ConfigError: keys that do not fit together.
    """

    def __init__(self, config: TaskConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.accumulation = config.accumulation
        self.loss = config.link_loss()
        self.measure = self.loss.without_penalty()
        self.sampler: Sampler | None = None
        rows, vocabulary, classes = make_rows(config)
        train, test = split_rows(rows, config.train_fraction, config.split_seed)
        train, test = (Rows(*(each.to(accelerator.device) for each in part)) for part in (train, test))
        ranks = accelerator.num_processes
        self.rows_per_step = rows_per_step(config, len(train.targets), ranks)
        steps_per_epoch = len(train.targets) // self.rows_per_step
        self.steps = config.steps if config.steps is not None else (config.epochs or 1) * steps_per_epoch
        self.model = make_classifier(
            config.model,
            vocabulary=vocabulary,
            places=rows.inputs.shape[1],
            classes=classes,
            overrides=config.model_args,
        )
        self.loader = RowLoader(
            train,
            batch_rows=None if config.full_batch else self.rows_per_step,
            steps=self.steps,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=ranks,
        )
        self.validation = ClassificationValidation(train, test, classes)

    def parts(self, model: nn.Module, batch: Rows) -> Iterator[StepPart]:
        """Equal parts of the batch, one for each micro-batch of the accumulation."""
        # Data parallelism averages gradients over ranks; the sum over them is wanted.
        scale = self.accelerator.num_processes / self.rows_per_step
        parts = zip(*(each.tensor_split(self.accumulation) for each in batch), strict=True)
        for i, (inputs, targets) in enumerate(parts, start=1):
            with nullcontext() if i == self.accumulation else self.accelerator.no_sync(model):
                logits = model(inputs)
                loss = self.loss(logits, targets)
                labels = len(targets) * target_entropy(targets, self.validation.classes)
                sums = {"loss": loss.detach(), "target_entropy": labels}
                if self.loss.penalty is not None:
                    sums["cross_entropy"] = self.measure(logits.detach(), targets)
                yield StepPart(loss, scale, sums, len(targets))


class ClassificationValidation:
    """Scores on the test rows, and loss and accuracy on the training rows, all with the same weights."""

    def __init__(self, train: Rows, test: Rows, classes: int) -> None:
        self.train, self.test = train, test
        self.classes = classes

    def run(self, accelerator: Accelerator, model: nn.Module, measure: LinkLoss) -> dict[str, float]:
        """All ranks call it.

        Returns:
            Of the test rows `loss` (nats), `accuracy`, and macro `precision`, `recall`, `f1`; `entropy` (nats) and
            `max_prob` of the softmax of the logits. Of the training rows `train_loss`, `train_accuracy`, and
            `train_zero_loss`, the share of rows whose loss is exactly 0.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad():
            sums, counts = self.sums(accelerator, model, measure, self.test)
            train_sums, train_counts = self.sums(accelerator, model, measure, self.train)
        model.train(was_training)
        train = macro_scores(train_counts)
        n, train_n = len(self.test.targets), len(self.train.targets)
        return {
            "loss": sums[0] / n,
            **macro_scores(counts),
            "entropy": sums[1] / n,
            "max_prob": sums[2] / n,
            "train_loss": train_sums[0] / train_n,
            "train_accuracy": train["accuracy"],
            "train_zero_loss": train_sums[3] / train_n,
        }

    def sums(
        self, accelerator: Accelerator, model: nn.Module, measure: LinkLoss, rows: Rows
    ) -> tuple[list[float], torch.Tensor]:
        """Sums of loss, entropy, largest probability and rows of loss 0, and the confusion, over all ranks."""
        total = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
        counts = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=accelerator.device)
        mine = Rows(*(each[accelerator.process_index :: accelerator.num_processes] for each in rows))
        for start in range(0, len(mine.targets), ROWS_AT_ONCE):
            inputs, targets = (each[start : start + ROWS_AT_ONCE] for each in mine)
            logits = model(inputs)
            losses = measure(logits, targets, reduction="none")
            stats = softmax_stats(logits, outputs=("entropy", "max_prob"))
            assert stats.entropy is not None
            assert stats.max_prob is not None
            found = (losses, stats.entropy, stats.max_prob, losses == 0)
            total += torch.stack([each.sum(dtype=torch.float64) for each in found])
            counts += confusion(logits.argmax(dim=-1), targets, self.classes)
        return accelerator.reduce(total, "sum").tolist(), accelerator.reduce(counts, "sum")


def make_rows(config: TaskConfig) -> tuple[Rows, int, int]:
    """Rows, tokens and classes of the task."""
    if config.task is TaskName.sparse_parity:
        return parity_rows(config.samples, config.parity_bits, config.noise_bits, config.split_seed), 2, 2
    return modular_rows(Operation(config.task.value), config.modulus), config.modulus, config.modulus


def rows_per_step(config: TaskConfig, train_rows: int, ranks: int) -> int:
    """Rows in a step, of all ranks and micro-batches together."""
    rows = train_rows if config.full_batch else config.batch_size * config.accumulation
    if rows > train_rows:
        raise ConfigError(
            f"`batch_size` x `accumulation` takes {rows} rows a step, and there are {train_rows} to train on"
            "\n\nLower one of them, or set full_batch=true."
        )
    if rows < ranks * config.accumulation:
        raise ConfigError(
            f"`accumulation` must leave a row to each of the {ranks} ranks, got {config.accumulation} of {rows} rows"
        )
    return rows
