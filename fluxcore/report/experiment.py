"""The page of an experiment: its answer in words, figures and tables, in an HTML file that needs nothing but itself."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxcore.errors import require
from fluxcore.report import theme
from fluxcore.report.page import PAGE_NAME
from fluxcore.report.theme import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


def write_experiment_page(
    folder: Path,
    *,
    title: str,
    verdict: str,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    facts: Mapping[str, str],
) -> Path:
    """Write `report.html`, and each figure as PNG, into a folder.

    Args:
        folder: Made if absent.
        title: Of the page.
        verdict: The answer, in a few sentences.
        tables: Numbers.
        figures: In the order in which they are shown.
        facts: How the page was made, besides the command.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fluxcore.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("experiment.html.j2").render(
        colours=theme.COLOURS,
        title=title,
        verdict=verdict,
        tables=tables,
        figures=figures,
        facts={"command": shlex.join(sys.argv), **facts},
    )
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        theme.save_png(figure, folder)
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    return folder / PAGE_NAME
