"""`fluxcore export`: a data set to files of other projects."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    data: Annotated[Path, typer.Argument(help="Folder of the data set; it stays as it is.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; nothing may stand there.")],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="modded-nanogpt (tokens alone; ids beyond uint16 as llm.c has them), hdf5 or datasets.")
    ],
    file_tokens: Annotated[int, typer.Option(help="With modded-nanogpt: tokens a file.")] = 100_000_000,
) -> None:
    """Write a data set for other projects, in the order in which its chunks are stored.

    A command that was killed, or found the disk full, goes on when it is given again.
    """
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar

    with progress_bar("exporting") as progress:
        report = fluxcore.data.export(data, out, format=format, file_tokens=file_tokens, progress=progress)
    typer.echo(f"{out}: {report.chunks:,} chunks, {report.tokens:,} tokens, for {format}")
