"""`fluxcore sort`: write a data set anew in the order of a score."""

from pathlib import Path
from typing import Annotated

import typer


def sort(
    src: Annotated[Path, typer.Argument(help="Folder of the data set; it stays as it is.")],
    dst: Annotated[Path | None, typer.Argument(help="Folder to write; none with --index-only.")] = None,
    *,
    by: Annotated[str, typer.Option(help="Score to sort by, such as lm.entropy_mean.")],
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    memory_mb: Annotated[
        int | None,
        typer.Option(min=1, help="Sort in partitions, within so many MB; without it, 100 bytes a chunk are taken."),
    ] = None,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Leave the chunks where they are, and add the order as a column.")
    ] = False,
) -> None:
    """Write a data set anew, physically sorted by a score; ties are broken by source, document and place in it.

    The tokenizer and the table of documents come along. Killed, or stopped by a full disk, it goes on from the shards
    that it finished when it is run again.
    """
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data.manifest import MANIFEST_NAME
    from fluxcore.data.progress import Progress

    if (dst is None) != index_only:
        raise typer.BadParameter("give either DST, the folder to write, or --index-only")
    memory_bytes = None if memory_mb is None else memory_mb * 1_000_000
    direction = "descending" if descending else "ascending"
    ds = fluxcore.data.open(src)
    if dst is None:
        result = fluxcore.data.sort_index(ds, by, descending, memory_bytes=memory_bytes)
        state = "was there already" if result.already_sorted else "is a column now"
        typer.echo(f"{src}: {result.chunks:,} chunks; their order by {by}, {direction}, {state}")
        return
    if not (dst / MANIFEST_NAME).exists():
        need = fluxcore.data.sort_disk_bytes(ds, by, memory_bytes=memory_bytes)
        typer.echo(f"{dst} takes up to {need / 1e9:,.3f} GB")
    with progress_bar("sorting") as progress:
        result = fluxcore.data.sort(
            ds,
            dst,
            by,
            descending=descending,
            memory_bytes=memory_bytes,
            progress=lambda done, total: progress(Progress(done, total, done * ds.chunk_tokens)),
        )
    state = "was already" if result.already_sorted else "is"
    typer.echo(f"{dst}: {result.chunks:,} chunks; it {state} {src} sorted by {by}, {direction}")
