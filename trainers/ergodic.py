"""How does in-context cross entropy grow with the number K of ergodic components in the training data?

    python -m fluxcore.trainers.ergodic --config-name quick_test
    python -m fluxcore.trainers.ergodic --multirun k=1,2,3,4 chain=0,1 seed=0,1,2 sweep_processes=2 run_dir=runs/ergodic
    python -m fluxcore.trainers.ergodic report runs/ergodic
    python -m fluxcore.trainers.ergodic inspect chunks.h5

Groups of keys are `dataset=`, `model=` and `training=`; see docs/ergodic.md.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fluxcore.cli.app import Commands
from fluxcore.report.ergodic_page import write_ergodic_report
from fluxcore.report.hdf5_labels import inspect_hdf5
from fluxcore.training.accumulation import micro_batches
from fluxcore.training.early_stopping import EarlyStopping
from fluxcore.training.ergodic_config import ErgodicConfig
from fluxcore.training.ergodic_data import open_components
from fluxcore.training.ergodic_validation import ErgodicValidation
from fluxcore.training.language_model import token_sums
from fluxcore.training.launch import launch
from fluxcore.training.models import check_model, load_model
from fluxcore.training.optim import adamw
from fluxcore.training.run import Run
from fluxcore.training.sampling import Sampler
from fluxcore.training.schedule import make_scheduler

CONFIGS = Path(__file__).parent / "configs" / "ergodic"
Config = ErgodicConfig


def train(config: ErgodicConfig) -> Path:
    """Train, and go on where an earlier run in `run_dir` stopped.

    Returns:
        The run folder: `metrics.jsonl`, `checkpoints/`, `config.yaml`, `log.txt`.
    Raises:
        ConfigError, OSError, FluxcoreError: what the user can mend, before training starts.
    """
    with Run(config) as run:
        check_model(config.model, context=config.dataset.chunk_tokens, overrides=config.model_args)
        components = open_components(config, run.accelerator)
        data, validation = components.data, ErgodicValidation(components.windows)
        loader = data.shuffled_loader(run.accelerator, config.seed)
        model = load_model(config.model, vocab_size=data.vocab_size, context=data.seq, overrides=config.model_args)
        sampler = Sampler.from_config(config, data.tokenizer, context=data.seq) if config.generate_every else None
        optimizer = adamw(model, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        scheduler = make_scheduler(
            optimizer, config.schedule, steps=data.plan.steps, warmup_steps=config.warmup_steps,
            min_ratio=config.min_lr_ratio,
        )  # fmt: skip
        model, optimizer = run.prepare(model, optimizer)
        stopper = EarlyStopping(config.stop)
        run.resume(model, optimizer, total_steps=data.plan.steps, scheduler=scheduler, loader=loader, stopper=stopper)
        if run.step == 0:
            run.event("run", **describe(config, components.subset))

        model.train()
        for tokens, targets, _ in run.batches(() if stopper.stopped else loader):
            for part in micro_batches(run.accelerator, model, tokens, targets, count=config.accumulation, seq=data.seq):
                sums = token_sums(model(input_ids=part.tokens).logits, part.targets)
                run.accelerator.backward(sums.loss * part.scale)
                for name in ("loss", "entropy", "max_prob"):
                    run.meters.add(name, getattr(sums, name), sums.tokens)
            norm = run.accelerator.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf"))
            run.meters.add("grad_norm", norm)
            learning_rate = float(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            run.step += 1

            validated = run.due(config.eval_every)
            best = validated and run.validate(validation, model, None)
            if validated and stopper.observe(run.validated):
                run.finish()
            if run.due(config.log_every):
                run.log_training(lr=learning_rate)
            if sampler is not None and run.due(config.generate_every):
                run.sample(sampler, model)
            if run.step == run.total_steps:
                for name, profile in validation.profiles.items():
                    run.event("profile", component=name, xe=profile)
            if best or run.due(config.save_every):
                run.save(best=best)
            if run.step == run.total_steps:
                break
        return run.folder.path


def describe(config: ErgodicConfig, subset: list[str]) -> dict[str, object]:
    """What the report must know of a run."""
    return {
        "k": len(subset), "chain": config.chain, "seed": config.seed, "subset": subset, "design": config.design.name,
        "labels": config.labels.name, "steps": config.run_steps(), "total_tokens": config.total_tokens(),
        "passes": config.passes,
    }  # fmt: skip


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Holds a folder a run, or loss profiles as .json or .npy files.")],
    page: Annotated[Path | None, typer.Option(help="Markdown page whose tables are replaced.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots as PNG; they are also in FOLDER.")] = None,
) -> None:
    """Rebuild every table and plot from the runs' metrics.jsonl alone, or from loss profiles made elsewhere."""
    typer.echo(f"{write_ergodic_report(folder, page, plots)} runs in {folder / 'report.html'}")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="HDF5 file with token_chunks.")]) -> None:
    """Count the labels of an HDF5 file of chunks, in documents and tokens."""
    typer.echo(inspect_hdf5(file))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("report", "inspect"):
        app(prog_name="python -m fluxcore.trainers.ergodic")
    else:
        launch(ErgodicConfig, train, CONFIGS)
