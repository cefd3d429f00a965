"""Write docs/numerics.md and docs/images/numerics.png: `python -m benchmarks.numerics_page`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import ROOT
from benchmarks.numerics import STABLEMAX_CLASSES, WRONG, Point, V, all_points

PAGE = ROOT / "docs" / "numerics.md"
PLOT = ROOT / "docs" / "images" / "numerics.png"
MARGIN = "margin"
PLACES = {
    "loss": MARGIN,
    "gradient": MARGIN,
    "1 - p_max": MARGIN,
    "entropy, lse - sum p x": MARGIN,
    "entropy, - sum p log p": MARGIN,
    "StableMax loss": "logit",
    "KL divergence": "distance",
}
"""What each quantity is tabled against."""
USUAL = {
    "loss": "`F.cross_entropy(x, y)`",
    "gradient": "its gradient at the target, by autograd",
    "1 - p_max": "`1 - x.softmax(-1).max()`",
    "entropy, lse - sum p x": "`x.logsumexp(-1) - (p * x).sum(-1)`, as verl has it",
    "entropy, - sum p log p": "`-(p * x.log_softmax(-1)).sum(-1)`, as TRL has it",
    "StableMax loss": "`-log(s_y / s.sum())`",
    "KL divergence": "`F.kl_div` of two `log_softmax`",
}
INTRODUCTION = f"""\
Cross entropy, entropy and their gradients are differences of numbers that become equal when a model is sure. The usual
`lse - x_y`, `p_y - 1`, `1 - p_max` and `lse - sum p x` cancel, in float32 down to 0, and so does the sum of
`p (log p - log r)` when two models are close. Here the largest logit is kept out of the sums, so that nothing is
subtracted, at the cost of one comparison an element. All rows below have {V} classes, unless said otherwise, and the
target is `margin` above the largest other logit."""
DENSE = {
    "margins": [float(i) for i in range(61)],
    "logits": [10 ** (1 + i / 10) for i in range(41)],
    "distances": [10 ** (-5 + i / 4) for i in range(21)],
}
"""Places of the plot, and of the sentences on where the usual values become wrong."""


def main() -> None:
    dense = all_points(**DENSE)
    PAGE.write_text(page(all_points(), dense))
    PLOT.parent.mkdir(exist_ok=True)
    plot(dense, PLOT)


def page(points: Sequence[Point], dense: Sequence[Point]) -> str:
    """The whole page."""
    parts = [
        "# Numerics",
        INTRODUCTION,
        "![Each value against the truth](images/numerics.png)",
        summary(dense),
        f"In bold: wrong by {WRONG:.0%} or more. The truth is computed in float64 from the same float32 logits.",
    ]
    for quantity, place in PLACES.items():
        parts += [f"## {heading(quantity)}", f"Usual: {USUAL[quantity]}.", table(points, quantity, place)]
    parts += [
        "## Rebuild",
        "`python -m benchmarks.numerics_page` writes this page and its plot; it needs the extra `report`.",
    ]
    return "\n\n".join(parts) + "\n"


def heading(quantity: str) -> str:
    """Of the quantity's section."""
    titles = {
        "loss": "Cross entropy",
        "gradient": "Size of its gradient at the target",
        "StableMax loss": f"StableMax cross entropy, {STABLEMAX_CLASSES} classes, logits L and -L",
        "KL divergence": "KL divergence, the second logits a distance of noise from the first",
    }
    title = titles.get(quantity, quantity)
    return title[0].upper() + title[1:]


def summary(dense: Sequence[Point]) -> str:
    """Where the usual values are wrong, and how wrong ours ever are."""
    lines = [
        "| | usual: first wrong by 5% at | 0 or less from | largest error of fluxcore |",
        "|---|---:|---:|---:|",
    ]
    for quantity, place in PLACES.items():
        # The hard places last: large margins and logits, small distances.
        own = [point for point in dense if point.quantity == quantity]
        own.sort(key=lambda point: -point.at if place == "distance" else point.at)
        wrong = next((point.at for point in own if point.error(point.usual) > WRONG), None)
        gone = None
        for point in reversed(own):
            if point.usual > 0:
                break
            gone = point.at
        places = ("never here" if at is None else f"{place} {at:.3g}" for at in (wrong, gone))
        worst = max(point.error(point.ours) for point in own)
        lines.append(f"| {quantity} | {' | '.join(places)} | {worst:.0e} |")
    return "\n".join(lines)


def table(points: Iterable[Point], quantity: str, place: str) -> str:
    """Markdown; a value that is wrong by 5% is bold."""
    lines = [f"| {place} | float64 | usual float32 | fluxcore float32 |", "|---:|---:|---:|---:|"]
    for point in points:
        if point.quantity == quantity:
            cells = (cell(point, value) for value in (point.truth, point.usual, point.ours))
            lines.append(f"| {point.at:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(point: Point, value: float) -> str:
    """Three digits; the truth is a value like the others, and always right."""
    text = f"{value:.3e}" if value else "0"
    return f"**{text}**" if point.error(value) > WRONG else text


def plot(dense: Sequence[Point], path: Path) -> None:
    """One panel a quantity, on logarithmic axes; values that are 0 or negative are marked at its foot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.2), constrained_layout=True)
    shown = [quantity for quantity in PLACES if quantity != "entropy, - sum p log p"]
    for axis, quantity in zip(axes.flat, shown, strict=True):
        own = [point for point in dense if point.quantity == quantity]
        places = [point.at for point in own]
        foot = min(point.truth for point in own) / 30
        right = [(point.at, point.usual) for point in own if point.usual > 0]
        gone = [point.at for point in own if point.usual <= 0]
        axis.plot(places, [point.truth for point in own], color="#c8c8c8", linewidth=7, label="float64")
        axis.plot(places, [point.ours for point in own], color="#1f5fbf", linewidth=1.6, label="fluxcore float32")
        axis.plot(*zip(*right, strict=True), ".", color="#d1495b", markersize=4, label="usual float32")
        axis.plot(gone, [foot] * len(gone), "x", color="#d1495b", markersize=4, label="usual: 0 or negative")
        axis.set_yscale("log")
        if PLACES[quantity] != MARGIN:
            axis.set_xscale("log")
        axis.set_title(heading(quantity).split(",")[0] if "entropy, " not in quantity else "Entropy", fontsize=10)
        axis.set_xlabel({"logit": "logits L and -L", "distance": "distance"}.get(PLACES[quantity], PLACES[quantity]))
        axis.grid(alpha=0.25)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
