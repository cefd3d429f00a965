"""Does sharpening cost likelihood, and where? A sweep of penalties and weights on a small model, and its report.

    python -m fluxcore.trainers.sharpness_sweep run --folder outputs/sharpness-sweep
    python -m fluxcore.trainers.sharpness_sweep report --folder outputs/sharpness-sweep

The baseline and four penalties at three weights, each with three seeds, on text that every Python installation has.
Give the first command again after a kill: whole runs are kept, and the one that was cut off goes on from its last
checkpoint. A run that fails is listed, and the others go on.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from fluxcore.trainers.sharpness import CONFIGS, train

from fluxcore.cli.app import Commands
from fluxcore.report.sharpness import BASELINE, write_sharpness_report
from fluxcore.training.grid import Job, open_grid, show_outcomes, train_grid
from fluxcore.training.resume import flat, is_free
from fluxcore.training.sharpness_config import SharpnessConfig
from fluxcore.training.task_config import PenaltyName

WEIGHTS = (0.01, 0.1, 0.5)
VARIED = ("penalty", "penalty_weight", "seed")
Setting = tuple[PenaltyName | None, float, int]


def settings(seeds: int, weights: tuple[float, ...]) -> list[Setting]:
    """(penalty, weight, seed) of every run; all of one seed first, so that an unfinished sweep still compares."""
    penalised: list[tuple[PenaltyName | None, float]] = list(product(PenaltyName, weights))
    return [(penalty, weight, seed) for seed in range(seeds) for penalty, weight in [(None, 0.0), *penalised]]


def name_of(setting: Setting) -> str:
    """Of a run's folder."""
    penalty, weight, seed = setting
    return f"{BASELINE}-seed{seed}" if penalty is None else f"{penalty.name}-{weight:g}-seed{seed}"


def configure(setting: Setting, folder: Path, steps: int | None) -> SharpnessConfig:
    """The trainer's configuration, checked."""
    penalty, weight, seed = setting
    config = SharpnessConfig.from_yaml(CONFIGS / "sweep.yaml")
    run_dir = folder / name_of(setting)
    return replace(
        config, penalty=penalty, penalty_weight=weight, seed=seed, run_dir=run_dir, steps=steps or config.steps
    )


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Folder = Annotated[Path, typer.Option(help="Holds a folder a run, and the report.")]


@app.command()
def run(
    folder: Folder = Path("outputs/sharpness-sweep"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    weight: Annotated[list[float] | None, typer.Option(help="Of the penalty; may be given again.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each run; those of the configuration if not given.")] = None,
    threads: Annotated[int, typer.Option(help="Of this process; a model this small gains little from more.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Runs that train at once.")] = 1,
) -> None:
    """Train what is not yet whole, and write the report; exit code 1 if a run failed."""
    torch.set_num_threads(threads)
    chosen = settings(seeds, tuple(weight or WEIGHTS))
    configs = {name_of(setting): configure(setting, folder, steps) for setting in chosen}
    values = flat(next(iter(configs.values())).to_dict())
    open_grid(
        folder,
        "sharpness_sweep",
        {key: value for key, value in values.items() if key not in VARIED and not is_free(key)},
    )
    outcomes = train_grid(
        folder, [Job(name, partial(train, config)) for name, config in configs.items()], processes=processes
    )
    whole = show_outcomes(outcomes)
    write_sharpness_report(folder)
    if not whole:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Folder = Path("outputs/sharpness-sweep"),
    page: Annotated[Path | None, typer.Option(help="Markdown page whose table is replaced.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
) -> None:
    """Write the report of the runs that are whole, from their folders alone."""
    found = write_sharpness_report(folder, page, plot)
    typer.echo(f"{sum(len(setting.final) for setting in found)} whole runs in {folder / 'report.html'}")


if __name__ == "__main__":
    app(prog_name="python -m fluxcore.trainers.sharpness_sweep")
