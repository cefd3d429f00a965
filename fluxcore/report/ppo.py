"""The page of a PPO run: reward, KL to the reference, weights of the sources, and samples, from its folder alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import require
from fluxcore.report import theme
from fluxcore.report.page import PAGE_NAME
from fluxcore.report.provenance import distinct, processor, versions
from fluxcore.report.runs import read_metrics
from fluxcore.report.theme import COLOURS, DASHES, SERIES, Figure, add_legend, finish, new_axes, series_colour

Rows = Sequence[dict[str, Any]]
TREND_SHARE = 0.2
"""Of the log's lines, at its beginning and at its end: what the page calls first and last."""
SHOWN_SAMPLES = 12


def write_ppo_page(folder: Path) -> Path:
    """Write `report.html` and its figures as PNG into a run folder.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: it holds no line of training.
    """
    jinja2 = require("jinja2", extra="report")
    yaml = require("yaml", extra="report")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    rows = read_metrics(folder / "metrics.jsonl")
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "val"]
    mixture = [row for row in rows if row["split"] == "mixture"]
    if not training:
        raise ValueError(f"`{folder / 'metrics.jsonl'}` must hold a line of split `train`, got none")
    figures = [reward_figure(training), kl_figure(training, config["kl"]["target"])]
    figures += [weight_figure(mixture), difficulty_figure(mixture)] if mixture else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fluxcore.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("ppo.html.j2").render(
        colours=theme.COLOURS,
        figures=figures,
        table=summary(training, validation, config),
        samples=last_samples(folder),
        facts=facts(folder),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
    for figure in figures:
        theme.save_png(figure, folder)
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    return folder / PAGE_NAME


def numbers(rows: Rows, name: str) -> NDArray[np.float64]:
    """A metric over the log; NaN where JSON has null."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)


def ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Means over the first and the last lines."""
    count = max(1, round(TREND_SHARE * len(values)))
    return float(np.nanmean(values[:count])), float(np.nanmean(values[-count:]))


def summary(training: Rows, validation: Rows, config: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, first, last, note) of the lines of the table."""
    share = f"means over the first and the last {TREND_SHARE:.0%} of the log"
    lines = [
        ("reward an answer", *ends(numbers(training, "reward")), share),
        ("KL to the reference, nats a token", *ends(numbers(training, "kl")), f"target {config['kl']['target']:g}"),
        ("coefficient of KL", *ends(numbers(training, "kl_coefficient")), config["kl"]["controller"]),
        ("entropy, nats a token", *ends(numbers(training, "entropy")), "of the policy on its answers"),
        ("tokens an answer", *ends(numbers(training, "answer_tokens")), ""),
    ]
    if validation:
        losses = numbers(validation, "loss")
        lines.append(("validation loss, nats a token", losses[0], losses[-1], "first and last validation"))
    return [(what, f"{first:.4g}", f"{last:.4g}", note) for what, first, last, note in lines]


def reward_figure(training: Rows) -> Figure:
    """Mean reward of the answers against steps."""
    canvas, axes = new_axes()
    steps, reward = numbers(training, "step"), numbers(training, "reward")
    axes.plot(steps, reward, color=series_colour(0), linewidth=1.8)
    axes.set_xlabel("step")
    axes.set_ylabel("reward an answer")
    first, last = ends(reward)
    return finish(
        canvas, name="reward", title="Reward",
        description=f"Mean reward an answer against steps: {first:.4g} over the first lines, {last:.4g} over the last.",
    )  # fmt: skip


def kl_figure(training: Rows, target: float) -> Figure:
    """KL to the reference against steps, with its target, and the coefficient that holds it there."""
    canvas, axes = new_axes()
    steps, kl = numbers(training, "step"), numbers(training, "kl")
    axes.plot(steps, kl, color=series_colour(0), linewidth=1.8, label="KL")
    axes.axhline(target, color=COLOURS["quiet"].light, linewidth=0.9, linestyle=(0, (2, 3)), label="target")
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token")
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(kl))))
    beside = axes.twinx()
    beside.plot(
        *(steps, numbers(training, "kl_coefficient")), color=series_colour(1), linestyle=DASHES[1], linewidth=1.4
    )
    beside.spines[["top", "left"]].set_visible(False)
    beside.spines["right"].set_color(COLOURS["quiet"].light)
    beside.tick_params(colors=COLOURS["ink"].light, labelsize=10)
    beside.set_ylabel("coefficient", color=COLOURS["ink"].light, size=10.5)
    beside.set_ylim(bottom=0)
    axes.plot([], [], color=series_colour(1), linestyle=DASHES[1], linewidth=1.4, label="coefficient (right)")
    add_legend_above(axes)
    return finish(
        canvas, name="kl", title="KL to the reference",
        description=f"Mean KL of the policy to its reference in nats a token against steps; {ends(kl)[1]:.4g} over the"
        f" last lines, with a target of {target:g}.",
    )  # fmt: skip


def add_legend_above(axes: Any) -> None:
    """Outside of the axes, where no curve passes."""
    add_legend(axes, loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, ncols=3)


def sources_of(mixture: Rows) -> list[str]:
    """Sources that have weights, those of most weight at the end first; as many as can be told apart."""
    prefix = "weight/"
    names = [key.removeprefix(prefix) for key in mixture[-1] if key.startswith(prefix)]
    return sorted(names, key=lambda name: -mixture[-1][prefix + name])[:SERIES]


def weight_figure(mixture: Rows) -> Figure:
    """Weights of the sources against steps."""
    names = sources_of(mixture)
    return source_figure(
        mixture, "weight", "share of the prompts", name="weights", title="Weights of the sources",
        description="Weight of each source against steps; at the end "
        + ", ".join(f"{name} {mixture[-1][f'weight/{name}']:.3f}" for name in names)
        + ".",
    )  # fmt: skip


def difficulty_figure(mixture: Rows) -> Figure:
    """Loss on each source under the lagging copy."""
    names = sources_of(mixture)
    return source_figure(
        mixture, "difficulty", "loss (nats a token)", name="difficulty", title="Difficulty of the sources",
        description="Mean loss on a sample of each source under the frozen copy; at the end "
        + ", ".join(f"{name} {mixture[-1][f'difficulty/{name}']:.3f}" for name in names)
        + ".",
    )  # fmt: skip


def source_figure(mixture: Rows, prefix: str, label: str, *, name: str, title: str, description: str) -> Figure:
    """One line a source."""
    canvas, axes = new_axes()
    for index, source in enumerate(sources_of(mixture)):
        axes.plot(
            *(numbers(mixture, "step"), numbers(mixture, f"{prefix}/{source}")), color=series_colour(index),
            linestyle=DASHES[index], linewidth=1.7, label=source,
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    add_legend_above(axes)
    return finish(canvas, name=name, title=title, description=description)


def last_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of the last step that has any."""
    path = folder / "samples.jsonl"
    samples = read_metrics(path) if path.exists() else []
    return [sample for sample in samples if sample["step"] == samples[-1]["step"]][:SHOWN_SAMPLES]


def facts(folder: Path) -> dict[str, str]:
    """How the run was made, as label -> value."""
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return {
        "command": " ".join(environment["command"]),
        "run": str(folder),
        "started": environment["started"],
        "commit": distinct([environment["commit"] or ""]),
        "trained with": versions(environment),
        "machine": processor(),
    }
