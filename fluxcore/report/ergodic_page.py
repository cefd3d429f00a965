"""Tables, plots and page of runs on K ergodic components."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxcore.report import theme
from fluxcore.report.ergodic import Profile, Series, by_series, read_ergodic
from fluxcore.report.experiment import Table, write_experiment_page
from fluxcore.report.intervals import CONFIDENCE, Interval
from fluxcore.report.markdown import markdown_table, rewrite_page
from fluxcore.report.theme import DASHES, MARKERS, SERIES, Figure, add_legend, finish, new_axes, series_colour

HEAD = ("design", "K", "runs", "seeds", "training tokens", "steps", "XE", "dXE")
FIT_HEAD = ("design", "scale, nats", "exponent", "exponent over seeds", "R²")
LABEL = 24
"""Characters of a legend's line: a component may be called by a path."""
COMPONENT_HEAD = ("component", "design", "K", "runs", "XE")


def write_ergodic_report(folder: Path, page: Path | None = None, plots: Path | None = None) -> int:
    """Write `report.html` and plots into a folder of runs; where asked for, a page's tables and copies of the plots.

    Returns:
        The number of runs in it.
    """
    runs, unfinished = read_ergodic(folder)
    series = by_series(runs)
    note = (
        "XE: in-context cross entropy, nats a token, mean over positions and components. dXE(K): a component's, beyond"
        " that of its run alone with the same seed; the mean over the components that have one. Means over seeds with"
        f" {CONFIDENCE:.0%} Student t intervals. With K = 1 both designs are one."
    )
    tables = [
        Table("Against K", HEAD, summary_rows(series), note),
        Table("Power law dXE = scale x (K - 1)^exponent", FIT_HEAD, fit_rows(series)),
        Table("Each component", COMPONENT_HEAD, component_rows(series)),
    ]
    figures = [xe_figure(series), rise_figure(series), position_figure(series[0]), component_figure(series[0])]
    left_out = f", {unfinished} unfinished ones left out" if unfinished else ""
    write_experiment_page(
        folder,
        title="Cross entropy against the number of ergodic components",
        verdict=verdict(series),
        tables=tables,
        figures=figures,
        facts={"runs": f"{len(runs)} in {folder}{left_out}"},
    )
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            (plots / f"ergodic-{figure.name}.png").write_bytes(figure.png)
    if page is not None:
        text = [markdown_table(table.head, table.rows) for table in tables if table.rows]
        rewrite_page(page, "\n\n".join([verdict(series), *text]))
    return len(runs)


def summary_rows(series: Sequence[Series]) -> list[list[object]]:
    """A row a design and K."""
    rows: list[list[object]] = []
    for each in series:
        for point in each.points:
            tokens = sorted({run.total_tokens for run in point.runs if run.total_tokens is not None})
            steps = sorted({run.steps for run in point.runs if run.steps is not None})
            seeds = len({run.seed for run in point.runs})
            rise = point.rise.text() if point.rise is not None else "–"
            cells = [", ".join(map(str, values)) or "–" for values in (tokens, steps)]
            rows.append([each.name, point.k, len(point.runs), seeds, *cells, point.xe.text(), rise])
    return rows


def fit_rows(series: Sequence[Series]) -> list[list[object]]:
    """A row a design that has a fit."""
    rows: list[list[object]] = []
    for each in series:
        law = each.power_law()
        if law is not None:
            by_seed = law.by_seed.text(3) if law.by_seed is not None else "–"
            rows.append([each.name, f"{law.scale:.4f}", f"{law.exponent:.3f}", by_seed, f"{law.r_squared:.3f}"])
    return rows


def component_rows(series: Sequence[Series]) -> list[list[object]]:
    """A row a component, design and K: means over runs."""
    rows: list[list[object]] = []
    names = sorted({name for each in series for point in each.points for run in point.runs for name in run.profiles})
    for name in names:
        for each in series:
            for point in each.points:
                values = [run.profiles[name].mean() for run in point.runs if name in run.profiles]
                if values:
                    rows.append([name, each.name, point.k, len(values), f"{np.mean(values):.4f}"])
    return rows


def verdict(series: Sequence[Series]) -> str:
    """dXE at the largest K of each design, in words."""
    sentences = []
    for each in series:
        point = each.points[-1]
        if point.rise is None:
            continue
        sentences.append(
            f"With {each.name}, a component's cross entropy at K = {point.k} is {describe(point.rise)} beyond its own"
            " at K = 1."
        )
    return " ".join(sentences) or "Runs with K = 1 and with a larger K of the same component and seed are needed."


def describe(rise: Interval) -> str:
    """A difference and what is known of its sign."""
    if math.isnan(rise.low):
        return f"{rise.mean:+.4f} nats a token (one seed: its error is not known)"
    known = "" if rise.excludes_zero else ", so that its sign is not known,"
    return f"{rise.text()} nats a token{known}"


def errors(interval: Interval) -> float:
    """Half the width, 0 where it is not known."""
    return 0.0 if math.isnan(interval.half_width) else interval.half_width


def xe_figure(series: Sequence[Series]) -> Figure:
    """Mean cross entropy against K."""
    canvas, axes = new_axes()
    for index, each in enumerate(series[:SERIES]):
        ks = [point.k for point in each.points]
        axes.errorbar(
            *(ks, [point.xe.mean for point in each.points], [errors(point.xe) for point in each.points]),
            color=series_colour(index), linestyle=DASHES[index], marker=MARKERS[index], capsize=2.5, label=each.name,
        )  # fmt: skip
    finish_k(axes, "cross entropy, nats a token")
    return finish(
        canvas, name="xe", title="Cross entropy against K",
        description="In-context cross entropy, mean over positions and components, against K. "
        + "; ".join(f"{each.name}: " + ", ".join(f"K={p.k} {p.xe.text()}" for p in each.points) for each in series),
    )  # fmt: skip


def rise_figure(series: Sequence[Series]) -> Figure:
    """dXE against K, with the power law."""
    canvas, axes = new_axes()
    axes.axhline(0, color=theme.COLOURS["quiet"].light, linewidth=0.9)
    for index, each in enumerate(series[:SERIES]):
        drawn = [(point.k, point.rise) for point in each.points if point.rise is not None]
        colour = series_colour(index)
        axes.errorbar(
            *([k + 0.04 * index for k, _ in drawn], [rise.mean for _, rise in drawn], [errors(r) for _, r in drawn]),
            color=colour, linestyle="none", marker=MARKERS[index], capsize=2.5, label=each.name,
        )  # fmt: skip
        law = each.power_law()
        if law is not None:
            ks = np.linspace(1.001, drawn[-1][0], 100)
            axes.plot(ks, law.scale * (ks - 1) ** law.exponent, color=colour, linestyle=DASHES[index], linewidth=1.2)
    finish_k(axes, "dXE(K), nats a token")
    return finish(
        canvas, name="rise", title="dXE(K) and its power law",
        description="Cross entropy of a component beyond that of its run alone, against K. " + verdict(series),
    )  # fmt: skip


def position_figure(series: Series) -> Figure:
    """Loss against position, a line a K."""
    lines = {f"K = {point.k}": point.profile() for point in series.points}
    return against_position("position", "Cross entropy against position", series.name, lines)


def component_figure(series: Series) -> Figure:
    """Loss against position at the largest K, a line a component."""
    point = series.points[-1]
    title = f"Each component against position, K = {point.k}"
    return against_position("component", title, series.name, point.by_component())


def against_position(name: str, title: str, design: str, lines: Mapping[str, Profile]) -> Figure:
    """Lines over the positions 1 to T-1."""
    canvas, axes = new_axes()
    for index, (label, profile) in enumerate(list(lines.items())[:SERIES]):
        axes.plot(
            *(np.arange(1, len(profile) + 1), profile), color=series_colour(index), linestyle=DASHES[index],
            linewidth=1.5, label=label if len(label) <= LABEL else "…" + label[1 - LABEL :],
        )  # fmt: skip
    axes.set_xlabel("position in the window")
    axes.set_ylabel("cross entropy, nats")
    legend_on_top(axes, rows=2, columns=2)
    ends = ", ".join(f"{label}: {profile[0]:.3f} to {profile[-1]:.3f}" for label, profile in lines.items())
    return finish(
        canvas, name=name, title=title,
        description=f"Loss of the token at each position, {design}; from the first to the last position {ends}.",
    )  # fmt: skip


def legend_on_top(axes: Any, *, rows: int, columns: int = 1) -> None:
    """Lines and intervals fill these plots: make room for it above them."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * rows * (high - low))
    add_legend(axes, loc="upper left", ncols=columns, columnspacing=1.0)


def finish_k(axes: Any, label: str) -> None:
    """K in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("K, number of components")
    axes.set_ylabel(label)
    legend_on_top(axes, rows=len(axes.get_legend_handles_labels()[1]))
