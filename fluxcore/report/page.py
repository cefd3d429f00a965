"""The report: figures, tables and text by entropy on one HTML page that needs nothing but itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import require
from fluxcore.report import provenance, theme
from fluxcore.report.compare import OrderResult, by_order, common_loss, milestone_losses, verdict
from fluxcore.report.figures import distribution_figure, loss_figure, score_figure
from fluxcore.report.heat import LEVELS, ScoredText
from fluxcore.report.runs import Run, differing_keys

PAGE_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What `build` wrote."""

    page: Path
    figures: tuple[Path, ...]


def build(
    runs: Sequence[Run],
    folder: Path,
    *,
    score_name: str,
    scores: Mapping[str, NDArray[np.float32]],
    texts: Sequence[ScoredText] = (),
    facts: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write `report.html` and each figure as PNG into `folder`.

    Args:
        runs: at least one run, best of the same data and budget; what else they differ in is said on the page.
        folder: made if absent.
        score_name: column that the runs are ordered by.
        scores: source -> its chunks' scores [n].
        texts: chunks to show coloured by entropy.
        facts: how the page was made; taken from this process if None.
    """
    jinja2 = require("jinja2", extra="report")
    if not runs:
        raise ValueError("`runs` must hold at least one run, got none")
    results = by_order(list(runs))
    drawn = [loss_figure(results), score_figure(results, score_name)]
    if any(len(values) for values in scores.values()):
        drawn.append(distribution_figure(scores, score_name))
    figures = {figure.name: figure for figure in drawn if figure is not None}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fluxcore.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(nats=format_nats, count=format_count, duration=format_duration)
    page = environment.get_template("report.html.j2").render(
        colours=theme.COLOURS, dashes=theme.DASHES, levels=LEVELS, results=results, verdict=verdict(results),
        milestones=milestone_losses(results), goal=common_loss(results), figures=figures, score_name=score_name,
        texts=texts, facts=facts or provenance.facts(runs), configs=configs(results),
        differing=differing_keys(list(runs)),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    saved = tuple(theme.save_png(figure, folder) for figure in figures.values())
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    return ReportFiles(page=folder / PAGE_NAME, figures=saved)


def configs(results: Sequence[OrderResult]) -> list[tuple[str, str]]:
    """(run, its configuration as YAML) for every run."""
    yaml: Any = require("yaml", extra="report")
    return [
        (f"{run.order}, seed {run.seed}", yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
        for result in results
        for run in result.runs
    ]


def format_nats(value: float) -> str:
    """A loss with four decimals, or a dash."""
    return f"{value:.4f}" if math.isfinite(value) else "–"


def format_count(value: float) -> str:
    """A count such as 812, 65.5 k or 1.31 M, or a dash."""
    if not math.isfinite(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}\u202f{unit}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """A time such as 41 s or 2 min 05 s, or a dash."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
