"""Train a causal language model on chunks in the order of a score, such as their entropy under another model.

    python -m fluxcore.trainers.curriculum data=FOLDER order=ascending column=lm.entropy_mean run_dir=runs/ascending

Runs that differ in `order` alone begin with the same weights, see the same chunks equally often, and are validated on
the same held-out documents: whatever differs in the end is due to the order. (Over several epochs, order=paced sees the
chunks of its first pools more often than the others.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fluxcore.training.accumulation import micro_batches
from fluxcore.training.config import ConfigError
from fluxcore.training.language_model import token_sums
from fluxcore.training.launch import launch
from fluxcore.training.models import load_model
from fluxcore.training.optim import adamw
from fluxcore.training.order_config import OrderedConfig
from fluxcore.training.run import Run
from fluxcore.training.sampling import Sampler
from fluxcore.training.schedule import make_scheduler
from fluxcore.training.training_data import open_training_data

CONFIGS = Path(__file__).parent / "configs" / "curriculum"


@dataclass(kw_only=True, slots=True)
class CurriculumConfig(OrderedConfig):
    """Keys of `python -m fluxcore.trainers.curriculum`, besides those of every trainer."""

    name: ClassVar[str] = "curriculum"
    data: Path
    """Folder of scored shards, as `fluxcore tokenize` and `fluxcore score` make it; `embedded`: a small one to try."""
    val_fraction: float = 0.05
    """Share of the documents that are held out for validation, chosen by a seeded hash."""
    val_data: Path | None = None
    """Folder of shards to validate on, in place of held-out documents."""

    def __post_init__(self) -> None:
        OrderedConfig.__post_init__(self)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must be within (0, 1), got {self.val_fraction}")


Config = CurriculumConfig


def train(config: CurriculumConfig) -> Path:
    """Train, and go on where an earlier run in `run_dir` stopped.

    Returns:
        The run folder: `metrics.jsonl`, `checkpoints/`, `config.yaml`, `log.txt`.
    Raises:
        ConfigError, OSError, FluxcoreError: what the user can mend, before training starts.
    """
    with Run(config) as run:
        data = open_training_data(
            config, run.accelerator, config.data, val_path=config.val_data, val_fraction=config.val_fraction
        )
        if config.column is not None and config.column not in data.ds.columns:
            raise ConfigError(f"`column` must be one of {', '.join(data.ds.columns)}, got {config.column!r}")
        columns = [config.column] if config.column else []
        loader = data.loader(run.accelerator, config.make_order(), config.seed, columns=columns)
        model = load_model(config.model, vocab_size=data.vocab_size, context=data.seq, overrides=config.model_args)
        sampler = Sampler.from_config(config, data.tokenizer, context=data.seq) if config.generate_every else None
        optimizer = adamw(model, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        scheduler = make_scheduler(
            optimizer,
            config.schedule,
            steps=data.plan.steps,
            warmup_steps=config.warmup_steps,
            min_ratio=config.min_lr_ratio,
        )
        model, optimizer = run.prepare(model, optimizer)
        run.resume(model, optimizer, total_steps=data.plan.steps, scheduler=scheduler, loader=loader)

        model.train()
        for tokens, targets, meta in run.batches(loader):
            for part in micro_batches(run.accelerator, model, tokens, targets, count=config.accumulation, seq=data.seq):
                sums = token_sums(model(input_ids=part.tokens).logits, part.targets)
                run.accelerator.backward(sums.loss * part.scale)
                for name in ("loss", "entropy", "max_prob"):
                    run.meters.add(name, getattr(sums, name), sums.tokens)
            if config.column is not None:
                run.meters.add("score", meta.scores[config.column].sum().item(), len(tokens))
            norm = run.accelerator.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf"))
            run.meters.add("grad_norm", norm)
            learning_rate = float(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            run.step += 1

            if run.due(config.log_every):
                run.log_training(lr=learning_rate)
            best = run.due(config.eval_every) and run.validate(data.validation, model, token_sums)
            if sampler is not None and run.due(config.generate_every):
                run.sample(sampler, model)
            if best or run.due(config.save_every):
                run.save(best=best)
        return run.folder.path


if __name__ == "__main__":
    launch(CurriculumConfig, train, CONFIGS)
