"""Reproduce grokking on modular addition: a grid of `surge_collapse` runs, and the table and plot of what came out.

    python -m fluxcore.trainers.grokking run --folder outputs/grokking
    python -m fluxcore.trainers.grokking report --folder outputs/grokking --page docs/experiments/grokking.md

Give the first command again after a kill: whole runs are kept, and the one that was cut off goes on from its last
checkpoint. Started twice at the same time, the two share the grid. A run that fails is listed, and the others go on.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from fluxcore.trainers.surge_collapse import CONFIGS, SurgeCollapseConfig, train

from fluxcore.cli.app import Commands
from fluxcore.report.grokking import read_grid, write_plot, write_table
from fluxcore.training.grid import Job, open_grid, show_outcomes, train_grid
from fluxcore.training.link_loss import LossName
from fluxcore.training.optimizer_config import OptimizerName
from fluxcore.training.surge_config import TriggerName

EPS = (1e-8, 1e-30)


def change_ortho(config: SurgeCollapseConfig) -> None:
    """The usual loss, with steps perpendicular to the weights."""
    config.optimizer.kind = OptimizerName.ortho_adamw


def change_stablemax(config: SurgeCollapseConfig) -> None:
    """StableMax with the second moment's memory that the authors give it."""
    config.loss = LossName.stablemax
    config.betas = [0.9, 0.999]


def change_residual(config: SurgeCollapseConfig) -> None:
    """Softmax cross entropy that does not round to 0."""
    config.loss = LossName.residual


def change_softmax(config: SurgeCollapseConfig) -> None:
    """The usual float32 softmax cross entropy, as the configuration has it."""


def change_surge(config: SurgeCollapseConfig) -> None:
    """The usual loss, with collapse and surge in the first 2000 steps; the last collapse leaves the model sparse."""
    config.surge.collapse_on = config.surge.surge_on = [TriggerName.every]
    config.surge.end = 2000


# Short runs first.
VARIANTS = {
    "ortho": change_ortho,
    "stablemax": change_stablemax,
    "residual": change_residual,
    "softmax": change_softmax,
    "surge": change_surge,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid."""

    variant: str
    eps: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant}-eps{self.eps:.0e}-seed{self.seed}"

    def configure(self, folder: Path, steps: int) -> SurgeCollapseConfig:
        """The trainer's configuration."""
        config = SurgeCollapseConfig.from_yaml(CONFIGS / "grokking.yaml")
        VARIANTS[self.variant](config)
        config.optimizer.eps, config.seed, config.steps = self.eps, self.seed, steps
        config.run_dir = folder / self.name
        return replace(config)  # which checks it


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def run(
    folder: Annotated[Path, typer.Option(help="Holds a folder a run.")] = Path("outputs/grokking"),
    steps: Annotated[int, typer.Option(help="Budget of each run; more steps go on where fewer ended.")] = 10_000,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 2,
    variant: Annotated[list[str] | None, typer.Option(help="Only this; may be given again.")] = None,
    eps: Annotated[list[float] | None, typer.Option(help="Only this eps of Adam; may be given again.")] = None,
    threads: Annotated[int, typer.Option(help="Of this process; matrices this small gain little from more.")] = 1,
) -> None:
    """Train what is not yet whole; exit code 1 if a run failed."""
    chosen = variant or list(VARIANTS)
    for name in chosen:
        if name not in VARIANTS:
            raise ValueError(f"`variant` must be one of {', '.join(VARIANTS)}, got {name!r}")
    torch.set_num_threads(threads)
    cells = [Cell(name, each, seed) for seed in range(seeds) for name in chosen for each in eps or EPS]
    open_grid(folder, "grokking", {})
    outcomes = train_grid(
        folder, [Job(cell.name, partial(train_cell, cell, folder, steps), budget=steps) for cell in cells]
    )
    if not show_outcomes(outcomes):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Option(help="As `run` filled it.")] = Path("outputs/grokking"),
    page: Annotated[Path, typer.Option(help="Its table is replaced.")] = Path("docs/experiments/grokking.md"),
    plot: Annotated[Path, typer.Option(help="PNG to write.")] = Path("docs/images/grokking.png"),
) -> None:
    """Write the table and the plot of the runs that are whole."""
    runs = read_grid(folder, list(VARIANTS))
    write_table(page, runs)
    write_plot(plot, runs)
    typer.echo(f"{len(runs)} whole runs in {page} and {plot}")


def train_cell(cell: Cell, folder: Path, steps: int) -> None:
    """Train one run, or go on with it."""
    train(cell.configure(folder, steps))


if __name__ == "__main__":
    app(prog_name="python -m fluxcore.trainers.grokking")
