"""`fluxcore verify`: read and check every byte of a data set."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    data: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    resume: Annotated[
        Path | None,
        typer.Option(help="File that keeps which shards are sound; given again after a kill, the rest is checked."),
    ] = None,
) -> None:
    """Check every byte of a data set against its checksums; exit code 1 at the first fault."""
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data.progress import Progress

    ds = fluxcore.data.open(data)
    with progress_bar("verifying") as progress:
        report = ds.verify(
            progress=lambda done, total: progress(Progress(done, total, done * ds.chunk_tokens)), resume_from=resume
        )
    earlier = f", {report.resumed_shards:,} of them by an earlier run" if report.resumed_shards else ""
    typer.echo(
        f"{data}: sound, every byte: {report.chunks:,} chunks, {report.tokens:,} tokens, {report.bytes:,} bytes"
        f" in {report.shards:,} shards and {report.sidecars:,} sidecars{earlier}"
    )
