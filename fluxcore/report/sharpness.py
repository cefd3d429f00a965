"""What a sweep of sharpness penalties says: the cost in likelihood and what it bought, from the run folders alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcore.errors import require
from fluxcore.report.experiment import Table, write_experiment_page
from fluxcore.report.intervals import CONFIDENCE, Interval, mean_interval, paired_interval
from fluxcore.report.markdown import markdown_table, rewrite_page
from fluxcore.report.provenance import distinct, processor, versions
from fluxcore.report.runs import WHOLE, read_metrics
from fluxcore.report.theme import (
    COLOURS,
    DASHES,
    MARKERS,
    PNG_DPI,
    Figure,
    add_legend,
    finish,
    new_axes,
    series_colour,
    style_axes,
)

BASELINE = "none"
MEASURES = {
    "cross_entropy": "cross entropy, nats a token",
    "entropy": "entropy of the predictions, nats",
    "max_prob": "mean largest probability",
    "calibration_error": "expected calibration error",
}
HEAD = ("penalty", "weight", "seeds", "cross entropy", "more than baseline", "entropy", "max p", "ECE", "accuracy")


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """The runs of one penalty at one weight."""

    penalty: str
    weight: float
    final: Mapping[int, Mapping[str, float]]
    """Seed -> the last validation of its run."""

    def of(self, name: str) -> dict[int, float]:
        """Seed -> one measure."""
        return {seed: values[name] for seed, values in self.final.items()}

    def interval(self, name: str) -> Interval:
        """Of a measure, over the seeds."""
        return mean_interval(self.of(name).values())


def read_sweep(folder: Path) -> list[Setting]:
    """The settings whose runs are whole: the baseline, then penalties by name and weights ascending.

    Raises:
        FileNotFoundError: no run is whole.
    """
    yaml = require("yaml", extra="report")
    found: dict[tuple[str, float], dict[int, dict[str, float]]] = {}
    for path in sorted(folder.glob(f"*/{WHOLE}")):
        config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
        rows = [row for row in read_metrics(path.parent / "metrics.jsonl") if row["split"] == "val"]
        last = {key: math.nan if value is None else value for key, value in rows[-1].items()}
        key = (config["penalty"] or BASELINE, config["penalty_weight"] if config["penalty"] else 0.0)
        found.setdefault(key, {})[config["seed"]] = last
    if not found:
        raise FileNotFoundError(2, "No whole run in", str(folder))
    order = sorted(found, key=lambda key: (key[0] != BASELINE, key))
    return [Setting(*key, found[key]) for key in order]


def cost(setting: Setting, baseline: Setting | None) -> Interval | None:
    """Cross entropy beyond the baseline's, nats a token, paired by seed."""
    if baseline is None:
        return None
    return paired_interval(setting.of("cross_entropy"), baseline.of("cross_entropy"))


def baseline_of(settings: Sequence[Setting]) -> Setting | None:
    """The runs without a penalty, if there are any."""
    return next((setting for setting in settings if setting.penalty == BASELINE), None)


def rows(settings: Sequence[Setting]) -> list[list[object]]:
    """Cells of the table under `HEAD`."""
    baseline = baseline_of(settings)
    cells: list[list[object]] = []
    for setting in settings:
        more = cost(setting, baseline) if setting is not baseline else None
        measures = [setting.interval(name).text(3) for name in ("entropy", "max_prob", "calibration_error", "accuracy")]
        head = [setting.penalty, f"{setting.weight:g}", len(setting.final)]
        cells.append([*head, setting.interval("cross_entropy").text(), more.text() if more else "–", *measures])
    return cells


def verdict(settings: Sequence[Setting]) -> str:
    """Which settings cost likelihood, which gained, and of which it is not known."""
    baseline = baseline_of(settings)
    costs = {setting: cost(setting, baseline) for setting in settings if setting is not baseline}
    known = {setting: each for setting, each in costs.items() if each is not None and each.excludes_zero}
    if baseline is None or not any(each is not None and each.count > 1 for each in costs.values()):
        return "Two seeds or more of the baseline and of a penalty are needed for an answer."

    def listed(chosen: Sequence[Setting]) -> str:
        return ", ".join(f"{each.penalty} at {each.weight:g} ({known[each].mean:+.4f})" for each in chosen) or "none"

    dearer = sorted((each for each in known if known[each].mean > 0), key=lambda each: -known[each].mean)
    cheaper = sorted((each for each in known if known[each].mean < 0), key=lambda each: known[each].mean)
    return (
        f"Paired by seed, the validation cross entropy is higher than the baseline's"
        f" {baseline.interval('cross_entropy').mean:.4f} nats a token, beyond a {CONFIDENCE:.0%} interval, for:"
        f" {listed(dearer)}; lower for: {listed(cheaper)}; and of {len(costs) - len(known)} of the {len(costs)}"
        " settings the sign of the difference is not known."
    )


def draw(axes: Any, settings: Sequence[Setting], measure: str) -> None:
    """One measure against the weight, a line a penalty, over the band of the baseline."""
    baseline = baseline_of(settings)
    if baseline is not None:
        band = baseline.interval(measure)
        axes.axhline(band.mean, color=COLOURS["quiet"].light, linewidth=1.0, linestyle=DASHES[2], label="no penalty")
        if math.isfinite(band.low):
            axes.axhspan(band.low, band.high, color=COLOURS["quiet"].light, alpha=0.15, linewidth=0)
    names = list(dict.fromkeys(setting.penalty for setting in settings if setting is not baseline))
    for index, name in enumerate(names):
        chosen = [setting for setting in settings if setting.penalty == name]
        # Side by side, since two penalties may give the same.
        weights = [setting.weight * 1.07 ** (index - (len(names) - 1) / 2) for setting in chosen]
        intervals = [setting.interval(measure) for setting in chosen]
        errors = [0.0 if math.isnan(each.half_width) else each.half_width for each in intervals]
        axes.errorbar(
            *(weights, [each.mean for each in intervals], errors), color=series_colour(index), linestyle=DASHES[index],
            marker=MARKERS[index], markersize=5, linewidth=1.5, capsize=2.5, label=name,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("weight of the penalty")


def figure(settings: Sequence[Setting], measure: str) -> Figure:
    """One measure, for the page."""
    canvas, axes = new_axes()
    draw(axes, settings, measure)
    axes.set_ylabel(MEASURES[measure])
    add_legend(axes)
    values = ", ".join(f"{each.penalty} {each.weight:g}: {each.interval(measure).text()}" for each in settings)
    return finish(
        canvas, name=measure, title=MEASURES[measure].split(",")[0].capitalize(),
        description=f"{MEASURES[measure]} against the weight of the penalty, means over seeds with {CONFIDENCE:.0%}"
        f" intervals. {values}.",
    )  # fmt: skip


def write_plot(path: Path, settings: Sequence[Setting]) -> None:
    """All four measures side by side, as PNG."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9.6, 6.6), layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, (measure, label) in zip(canvas.subplots(2, 2).flat, MEASURES.items(), strict=True):
        style_axes(axes)
        draw(axes, settings, measure)
        axes.set_ylabel(label)
    add_legend(canvas.axes[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=PNG_DPI // 2, facecolor=COLOURS["ground"].light)


def write_sharpness_report(folder: Path, page: Path | None = None, plot: Path | None = None) -> list[Setting]:
    """Write `report.html` into a sweep's folder; and where asked for, the table of a page and the plot."""
    settings = read_sweep(folder)
    environments = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/environment.json"))]
    note = f"Means over seeds with {CONFIDENCE:.0%} Student t intervals; `more than baseline` is paired by seed."
    write_experiment_page(
        folder,
        title="Does sharpening cost likelihood?",
        verdict=verdict(settings),
        tables=[Table("Last validation", HEAD, rows(settings), note)],
        figures=[figure(settings, measure) for measure in MEASURES],
        facts={
            "runs": f"{sum(len(setting.final) for setting in settings)} whole runs in {folder}",
            "trained at commit": distinct(str(each.get("commit") or "") for each in environments),
            "trained with": distinct(versions(each) for each in environments),
            "machine": processor(),
        },
    )
    if page is not None:
        text = markdown_table(HEAD, rows(settings))
        rewrite_page(page, f"{verdict(settings)}\n\n{text}")
    if plot is not None:
        write_plot(plot, settings)
    return settings
