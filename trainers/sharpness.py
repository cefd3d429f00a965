"""Train a causal language model with a penalty that makes its predictions sharper.

    python -m fluxcore.trainers.sharpness data=FOLDER penalty=neg_entropy penalty_weight=0.01 run_dir=runs/sharp
    python -m fluxcore.trainers.sharpness --config-name tinyshakespeare "text.sources=[tinyshakespeare.txt]"
    python -m fluxcore.trainers.sharpness --multirun data=FOLDER penalty_weight=0,0.01,0.05 run_dir=runs/sweep

One `linear_cross_entropy` call a micro-batch gives cross entropy, penalty, gradient, entropy and largest probability.
See docs/sharpness.md, and docs/experiments/sharpness.md for what sharpening does to the likelihood.
"""

from pathlib import Path

from fluxcore.integrations.model_head import linear_head
from fluxcore.training.accumulation import micro_batches
from fluxcore.training.launch import launch
from fluxcore.training.models import check_model, load_model
from fluxcore.training.optim import adamw
from fluxcore.training.run import Run
from fluxcore.training.sampling import Sampler
from fluxcore.training.schedule import make_scheduler
from fluxcore.training.sharpness_config import PositionsName, SharpnessConfig
from fluxcore.training.sharpness_loss import SharpnessLoss, SharpnessValidation
from fluxcore.training.trainer_config import require_within_run
from fluxcore.training.training_data import open_training_data

CONFIGS = Path(__file__).parent / "configs" / "sharpness"


Config = SharpnessConfig


def train(config: SharpnessConfig) -> Path:
    """Train, and go on where an earlier run in `run_dir` stopped.

    Returns:
        The run folder: `metrics.jsonl`, `checkpoints/`, `config.yaml`, `log.txt`.
    Raises:
        ConfigError, OSError, FluxcoreError: what the user can mend, before training starts.
    """
    with Run(config) as run:
        context = config.seq or 1024  # of text that is yet to be tokenised
        if config.data is None:
            check_model(config.model, context=context, overrides=config.model_args)
        with run.accelerator.main_process_first():
            path = config.data or config.text.prepare(context)
        data = open_training_data(
            config, run.accelerator, path, val_path=config.val_data, val_fraction=config.val_fraction
        )
        require_within_run(config, data.plan.steps)
        loader = data.shuffled_loader(run.accelerator, config.seed)
        model = load_model(config.model, vocab_size=data.vocab_size, context=data.seq, overrides=config.model_args)
        sampler = Sampler.from_config(config, data.tokenizer, context=data.seq) if config.generate_every else None
        optimizer = adamw(model, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        scheduler = make_scheduler(
            optimizer, config.schedule, steps=data.plan.steps, warmup_steps=config.warmup_steps,
            min_ratio=config.min_lr_ratio,
        )  # fmt: skip
        model, optimizer = run.prepare(model, optimizer)
        run.resume(model, optimizer, total_steps=data.plan.steps, scheduler=scheduler, loader=loader)
        head = linear_head(run.accelerator.unwrap_model(model))
        measure = SharpnessLoss(head, config.sharpness(), config.penalty_positions is PositionsName.all)

        model.train()
        for tokens, targets, _ in run.batches(loader):
            balance = measure.balance(run.accelerator, targets, data.seq)
            for part in micro_batches(run.accelerator, model, tokens, targets, count=config.accumulation, seq=data.seq):
                with run.accelerator.autocast():
                    sums = measure(model, part.tokens, part.targets, balance)
                run.accelerator.backward(sums.loss * part.scale)
                run.meters.add("loss", sums.loss, sums.tokens)
                for name, (total, weight) in sums.means.items():
                    run.meters.add(name, total, weight)
            norm = run.accelerator.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf"))
            run.meters.add("grad_norm", norm)
            learning_rate = float(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            run.step += 1

            if run.due(config.log_every):
                run.log_training(lr=learning_rate)
            best = run.due(config.eval_every) and run.validate(SharpnessValidation(data.validation), model, measure)
            if sampler is not None and run.due(config.generate_every):
                run.sample(sampler, model)
            if best or run.due(config.save_every):
                run.save(best=best)
        return run.folder.path


if __name__ == "__main__":
    launch(SharpnessConfig, train, CONFIGS)
