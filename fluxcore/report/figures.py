"""The figures of the report, each drawn once and returned as SVG and PNG."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.report.compare import OrderResult, common_loss, tokens_to_reach
from fluxcore.report.runs import Curve
from fluxcore.report.theme import (
    COLOURS,
    DASHES,
    MARKERS,
    SERIES,
    Figure,
    add_legend,
    finish,
    new_axes,
    series_colour,
)

TRAIN_SMOOTHING = 5  # log lines in the running mean of the training loss
HISTOGRAM_BINS = 40


def loss_figure(results: list[OrderResult]) -> Figure:
    """Validation and training loss against tokens, and where each order reaches the loss that all of them reach."""
    canvas, axes = new_axes()
    goal = common_loss(results)
    for index, result in enumerate(results[:SERIES]):
        colour = series_colour(index)
        for run in result.runs:
            axes.plot(*smoothed(run.train), color=colour, linewidth=0.8, alpha=0.4)
            axes.plot(
                *(run.validation.tokens, run.validation.loss), color=colour, linestyle=DASHES[index], linewidth=1.8,
                label=result.order if run is result.runs[0] else None,
            )  # fmt: skip
            axes.plot(
                tokens_to_reach(run.validation, goal), goal,
                color=colour, marker=MARKERS[index], markersize=6, linestyle="none",
            )  # fmt: skip
    axes.axhline(goal, color=COLOURS["quiet"].light, linewidth=0.9, linestyle=(0, (2, 3)))
    axes.plot([], [], color=COLOURS["quiet"].light, linewidth=0.8, alpha=0.6, label="training, in the order's colour")
    label_tokens(axes)
    axes.set_ylabel("loss (nats a token)")
    axes.set_ylim(*loss_limits(results))
    add_legend(axes)
    ends = ", ".join(f"{result.order} {result.final_loss:.3f}" for result in results)
    return finish(
        canvas, name="loss", title="Loss against tokens",
        description=f"Validation loss of each order against tokens trained on. Final values in nats a token: {ends}.",
    )  # fmt: skip


def smoothed(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens and loss as running means, so that the noise of single intervals does not hide the curves."""
    width = min(TRAIN_SMOOTHING, len(curve.loss))
    kernel = np.full(width, 1 / width)
    return np.convolve(curve.tokens, kernel, "valid"), np.convolve(curve.loss, kernel, "valid")


def loss_limits(results: list[OrderResult]) -> tuple[float, float]:
    """Limits that show the end of the curves: the first steps, far above all others, are cut."""
    curves = [
        c
        for result in results
        for run in result.runs
        for c in (run.validation, run.train)
        if not np.isnan(c.loss).all()
    ]
    low = min(float(np.nanmin(curve.loss)) for curve in curves)
    high = max(float(np.nanquantile(curve.loss, 0.9)) for curve in curves)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def label_tokens(axes: Any) -> None:
    """The x axis in tokens, with k, M and G."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("tokens trained on")


def score_figure(results: list[OrderResult], score_name: str) -> Figure | None:
    """What each order was fed: the mean score of the chunks against tokens; None where the runs did not log it."""
    canvas, axes = new_axes()
    drawn = []
    for index, result in enumerate(results[:SERIES]):
        curve = result.runs[0].train
        known = ~np.isnan(curve.score)
        if known.any():
            axes.plot(
                *(curve.tokens[known], curve.score[known]), color=series_colour(index), linestyle=DASHES[index],
                linewidth=1.6, label=result.order,
            )  # fmt: skip
            drawn.append(result.order)
    if not drawn:
        return None
    label_tokens(axes)
    axes.set_ylabel(f"mean {score_name}")
    add_legend(axes)
    return finish(
        canvas, name="fed", title="What each order was fed",
        description=f"Mean {score_name} of the chunks in each interval against tokens, for {', '.join(drawn)}.",
    )  # fmt: skip


def distribution_figure(scores: Mapping[str, NDArray[np.float32]], score_name: str) -> Figure:
    """Distribution of a score per source; `scores` maps a source to the scores [n] of its chunks.

    The sources with most chunks are drawn; the rest is drawn as one.
    """
    canvas, axes = new_axes()
    groups = largest_groups(scores)
    everything = np.concatenate(list(groups.values()))
    edges = np.histogram_bin_edges(everything, bins=HISTOGRAM_BINS)
    for index, (source, values) in enumerate(groups.items()):
        shares = np.histogram(values, edges)[0] / len(values) * 100
        axes.stairs(
            shares, edges, color=series_colour(index), linestyle=DASHES[index], linewidth=1.7,
            label=f"{source} ({len(values):,})",
        )  # fmt: skip
        axes.axvline(np.median(values), ymax=0.04, color=series_colour(index), linewidth=2.4)
    axes.set_xlabel(score_name)
    axes.set_ylabel("% of the source's chunks a bin")
    axes.set_ylim(bottom=0)
    add_legend(axes, title="source (chunks)")
    axes.get_legend().get_title().set(color=COLOURS["ink"].light, size=9.5)
    medians = ", ".join(f"{source} {np.median(values):.2f}" for source, values in groups.items())
    return finish(
        canvas, name="distribution", title="Entropy by source",
        description=f"Histogram of {score_name} per source. Medians: {medians}.",
    )  # fmt: skip


def largest_groups(scores: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """At most `SERIES` groups, by falling size; what does not fit is joined as the last."""
    by_size = sorted(((name, values) for name, values in scores.items() if len(values)), key=lambda item: -len(item[1]))
    if len(by_size) <= SERIES:
        return dict(by_size)
    rest = by_size[SERIES - 1 :]
    joined = np.concatenate([values for _, values in rest])
    return {**dict(by_size[: SERIES - 1]), f"{len(rest)} others": joined}
