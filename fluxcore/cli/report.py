"""`fluxcore report`: compare runs on one page."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fluxcore.data import Dataset
    from fluxcore.report import ReportFiles
    from fluxcore.report.runs import Run
    from fluxcore.scoring import TokenScorer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of the curriculum trainer.", metavar="RUN...")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page and the figures; where the runs are, without it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The scored data set; the one that the runs trained on, without it.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Score to show; the one that the runs name, without it.")] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="ngram, or a language model: shows the text coloured by its entropy."),
    ] = None,
) -> None:
    """Compare runs on one self-contained HTML page, from their logs and the data set alone."""
    from rich.console import Console

    from fluxcore.cli.summary import summary_table
    from fluxcore.report.compare import by_order, verdict
    from fluxcore.report.runs import read_run

    found = [read_run(folder) for folder in runs]
    files = write_report(found, out or common_folder(runs), data=data, column=column, scorer=scorer)
    console = Console(highlight=False)
    results = by_order(found)
    console.print(summary_table(results))
    console.print(verdict(results), markup=False)
    for path in (files.page, *files.figures):
        typer.echo(str(path))


def write_report(
    runs: "list[Run]",
    folder: Path,
    *,
    data: Path | None = None,
    column: str | None = None,
    scorer: str | None = None,
    command: str | None = None,
) -> "ReportFiles":
    """Build the page of `runs` in `folder`; what is None is taken from the runs' configurations."""
    import fluxcore.data
    from fluxcore.report import build, provenance
    from fluxcore.report.dataset import scores_by_source, texts_by_entropy

    score_name = column or str(only_value(runs, "column", option="--column"))
    ds = fluxcore.data.open(data or Path(str(only_value(runs, "data", option="--data"))))
    texts = texts_by_entropy(ds, score_name, token_scorer(ds, scorer)) if scorer else []
    return build(
        runs,
        folder,
        score_name=score_name,
        scores=scores_by_source(ds, score_name),
        texts=texts,
        facts=provenance.facts(runs, command),
    )


def token_scorer(ds: "Dataset", spec: str) -> "TokenScorer":
    """The scorer that `spec` names: `ngram`, fitted on `ds`, or a language model."""
    from fluxcore.scoring import LanguageModelScorer, NGramScorer

    return NGramScorer.fit(ds) if spec == "ngram" else LanguageModelScorer(spec)


def only_value(runs: "list[Run]", key: str, *, option: str) -> object:
    """What all runs that have a value for `key` have in common."""
    values = {str(run.config[key]): run for run in runs if run.config.get(key) is not None}
    if len(values) != 1:
        found = ", ".join(f"{value!r} in {run.folder}" for value, run in values.items()) or "none"
        raise ValueError(f"the runs must have one `{key}`, got {found}\n\nSay which with {option}.")
    return next(iter(values))


def common_folder(runs: list[Path]) -> Path:
    """The run folder itself if there is one run, else the deepest folder that holds them all."""
    return Path(os.path.commonpath([run.resolve() for run in runs]))
