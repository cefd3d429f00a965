"""Table and plot of the runs of `python -m fluxcore.trainers.grokking`, from their folders alone."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import require
from fluxcore.report.markdown import markdown_table, rewrite_page
from fluxcore.report.runs import WHOLE, read_metrics
from fluxcore.report.theme import COLOURS, PNG_DPI, series_colour

NAME = re.compile(r"(?P<variant>\w+)-eps(?P<eps>[\de.+-]+)-seed(?P<seed>\d+)")
FITS, GROKS = 0.999, 0.99
"""Accuracy on the training rows, and on the test rows, from which a run counts as fitting and as grokking."""


@dataclass(frozen=True, slots=True)
class GrokkingRun:
    """The validations of one run. All arrays are [L], in the order of the steps."""

    variant: str
    eps: float
    seed: int
    step: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    """On the test rows."""
    train_accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    """On the test rows, nats."""
    train_loss: NDArray[np.float64]
    zero_loss: NDArray[np.float64]
    """Share of the training rows whose loss is exactly 0."""

    def first(self, values: NDArray[np.float64], at_least: float) -> int | None:
        """First step of a validation at which `values` reach a bound; None if they never do."""
        reached = np.flatnonzero(values >= at_least)
        return int(self.step[reached[0]]) if len(reached) else None


def read_grid(folder: Path, variants: Sequence[str]) -> list[GrokkingRun]:
    """The runs of a folder that are whole, by variant, eps and seed.

    Raises:
        FileNotFoundError: there is none.
    """
    found = []
    for path in folder.glob(f"*/{WHOLE}"):
        parts = NAME.fullmatch(path.parent.name)
        if parts is not None and parts["variant"] in variants:
            found.append(read_grokking_run(path.parent, parts["variant"], float(parts["eps"]), int(parts["seed"])))
    if not found:
        raise FileNotFoundError(2, "No whole run in", str(folder))
    return sorted(found, key=lambda run: (variants.index(run.variant), -run.eps, run.seed))


def read_grokking_run(folder: Path, variant: str, eps: float, seed: int) -> GrokkingRun:
    """The validations that a run logged; what JSON cannot say is NaN.

    Of a run that is being extended those of the smaller budget, which is whole.
    """
    last = json.loads((folder / WHOLE).read_text(encoding="utf-8"))["steps"]
    rows = read_metrics(folder / "metrics.jsonl")
    rows = [row for row in rows if row["split"] == "val" and row["step"] <= last]

    def numbers(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)

    return GrokkingRun(
        variant=variant,
        eps=eps,
        seed=seed,
        step=np.array([row["step"] for row in rows], np.int64),
        accuracy=numbers("accuracy"),
        train_accuracy=numbers("train_accuracy"),
        loss=numbers("loss"),
        train_loss=numbers("train_loss"),
        zero_loss=numbers("train_zero_loss"),
    )


def table(runs: Iterable[GrokkingRun]) -> str:
    """A line of Markdown a run."""
    head = ["variant", "eps", "seed", "steps", "fits at", "groks at", "best test accuracy", "test accuracy at the end"]
    rows = []
    for run in runs:
        fits, groks = run.first(run.train_accuracy, FITS), run.first(run.accuracy, GROKS)
        cells = [
            run.variant,
            f"{run.eps:.0e}",
            run.seed,
            run.step[-1],
            "never" if fits is None else fits,
            "never" if groks is None else groks,
            f"{np.nanmax(run.accuracy):.2%}",
            f"{run.accuracy[-1]:.2%}",
            f"{run.train_loss[-1]:.1e}",
            f"{run.zero_loss[-1]:.0%}",
        ]
        rows.append(cells)
    return markdown_table([*head, "training loss at the end", "rows of loss 0 at the end"], rows)


def write_table(page: Path, runs: Sequence[GrokkingRun]) -> None:
    """Replace the table of a page; errors as in `rewrite_page`."""
    rewrite_page(page, table(runs))


def write_plot(path: Path, runs: Sequence[GrokkingRun]) -> None:
    """Accuracy above and loss below, a column a variant; solid on test rows, dotted on training rows."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(run.variant for run in runs))
    canvas = Figure(figsize=(3.0 * len(variants) + 0.4, 5.2), layout="constrained")
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(2, len(variants), sharex=True, sharey="row", squeeze=False)
    eps = sorted({run.eps for run in runs}, reverse=True)
    for run in runs:
        column = variants.index(run.variant)
        style: dict[str, Any] = {"color": series_colour(eps.index(run.eps)), "linewidth": 1.2}
        label = f"eps {run.eps:.0e}" if run.seed == min(other.seed for other in runs if other.eps == run.eps) else None
        for axes, test, train in (
            (grid[0, column], run.accuracy, run.train_accuracy),
            (grid[1, column], run.loss, run.train_loss),
        ):
            axes.plot(run.step, test, label=label, **style)
            axes.plot(run.step, train, linestyle=(0, (1, 1.4)), **style)
    for column, variant in enumerate(variants):
        grid[0, column].set_title(variant, color=COLOURS["ink"].light, size=11)
        grid[1, column].set_xlabel("step")
    grid[0, 0].set_ylabel("accuracy (dotted: training rows)")
    grid[1, 0].set_ylabel("loss, nats")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=COLOURS["grid"].light, linewidth=0.7)
        axes.set_xscale("log")
    for axes in grid[1]:
        axes.set_yscale("log")
    grid[0, 0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=PNG_DPI, facecolor=COLOURS["ground"].light)
