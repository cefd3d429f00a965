"""`fluxcore convert`: files of other projects to a data set."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must hold no data set yet.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Files, or folders of them, in order; SOURCE=PATH for several sources.")
    ],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="nanogpt, modded-nanogpt (also llm.c), megatron (also DeepSpeed), hdf5 or datasets.")
    ],
    vocab_size: Annotated[
        int | None, typer.Option(help="Every id must be below it; needed, but for what `fluxcore export` wrote.")
    ] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens a chunk; 1024 without it.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="uint16 or uint32; without it, the smaller that fits the vocabulary.")
    ] = None,
    boundary: Annotated[
        int | None,
        typer.Option(help="With the nanogpt formats: the token at the end of each document, 50256 in GPT-2."),
    ] = None,
    boundary_at: Annotated[str, typer.Option(help="end, or start where the boundary opens a document.")] = "end",
    token_dtype: Annotated[
        str | None, typer.Option(help="With megatron: type of the tokens, where the index leaves two.")
    ] = None,
    column: Annotated[str, typer.Option(help="With datasets: the column of lists of ids.")] = "input_ids",
) -> None:
    """Write the tokens of other projects' files as a data set; every token is kept and checked.

    A command that was killed, or found the disk full, goes on behind its last full shard when it is given again.
    """
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar

    by_source: dict[str, list[str | Path]] = {}
    for given in inputs:
        source, equals, path = given.partition("=")
        named = bool(equals) and not Path(given).exists()
        by_source.setdefault(source if named else format, []).append(path if named else given)
    with progress_bar("converting") as progress:
        report = fluxcore.data.convert(
            by_source,
            out,
            format=format,
            vocab_size=vocab_size,
            chunk_tokens=chunk_tokens,
            dtype=dtype,
            boundary=boundary,
            boundary_at=boundary_at,
            token_dtype=token_dtype,
            column=column,
            progress=progress,
        )
    documents = "" if report.documents is None else f"{report.documents:,} documents, "
    typer.echo(f"{out}: {documents}{report.chunks:,} chunks, {report.tokens:,} tokens")
