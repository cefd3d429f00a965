"""`fluxcore score`: every chunk of a data set by entropy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fluxcore.data import Dataset
    from fluxcore.scoring import Scorer


def score(
    data: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    scorer: Annotated[
        str, typer.Option(help="ngram, zlib, lzma, or a language model: a checkpoint's folder or a hub name.")
    ] = "ngram",
    prefix: Annotated[
        str | None, typer.Option(help="First part of the columns' names; lm, ngram, zlib or lzma without it.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Chunks at once.")] = 32,
    order: Annotated[int, typer.Option(help="With ngram: 3 looks at the two tokens before.")] = 3,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a hub name.")] = None,
    device: Annotated[str | None, typer.Option(help="Where a model runs; the GPU, where there is one.")] = None,
    include_last: Annotated[bool, typer.Option(help="Count what follows the chunk, too.")] = False,
    include_bos: Annotated[bool, typer.Option(help="Count a chunk's first token, too.")] = False,
    source_quantiles: Annotated[
        bool, typer.Option("--source-quantiles", help="Add the quantile of each score within its source, too.")
    ] = False,
) -> None:
    """Score every chunk and add the scores as columns; a killed run goes on where it was."""
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar
    from fluxcore.scoring import score as score_dataset

    ds = fluxcore.data.open(data)
    chosen, kind = _scorer(ds, scorer, order, revision, device, include_last, include_bos)
    with progress_bar("scoring") as progress:
        report = score_dataset(ds, chosen, prefix=prefix or kind, batch_size=batch_size, progress=progress)
    _show(ds, report.columns)
    if source_quantiles:
        _add_source_quantiles(ds, report.columns)
    if report.resumed_chunks:
        typer.echo(f"{report.resumed_chunks:,} of {report.chunks:,} chunks were scored by an earlier run")
    if report.unscored_chunks:
        typer.echo(f"{report.unscored_chunks:,} chunks have nothing to score; their score is -1")


def _scorer(
    ds: "Dataset",
    spec: str,
    order: int,
    revision: str | None,
    device: str | None,
    include_last: bool,
    include_bos: bool,
) -> tuple["Scorer", str]:
    """The scorer that `spec` names, and the prefix that goes with it."""
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data.tokenise import TOKENIZER_FILE
    from fluxcore.data.tokenizer import Tokenizer
    from fluxcore.scoring import CompressionScorer, LanguageModelScorer, NGramScorer
    from fluxcore.scoring.compression import CODECS

    if spec == "ngram":
        with progress_bar("counting") as progress:
            ngram = NGramScorer.fit(
                ds, order=order, include_last=include_last, include_bos=include_bos, progress=progress
            )
        return ngram, "ngram"
    if spec in CODECS:
        return CompressionScorer(Tokenizer.load(Path(ds.path) / TOKENIZER_FILE), codec=spec), spec
    model = LanguageModelScorer(
        spec, revision=revision, device=device, include_last=include_last, include_bos=include_bos
    )
    return model, "lm"


def _add_source_quantiles(ds: "Dataset", columns: tuple[str, ...]) -> None:
    from fluxcore.data.source_quantiles import quantile_name

    # Those that an earlier run added stay.
    added = ds.add_source_quantiles(*(name for name in columns if quantile_name(name) not in ds.columns))
    typer.echo(f"{len(added)} columns of quantiles within the source, {quantile_name('COLUMN')}, from 0 to 65535")


def _show(ds: "Dataset", columns: tuple[str, ...]) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table("column", *("least", "10%", "median", "90%", "most"))
    for name in columns:
        quantiles = np.quantile(ds.column(name), (0, 0.1, 0.5, 0.9, 1))
        table.add_row(name, *(f"{value:.3f}" for value in quantiles))
    Console().print(table)
