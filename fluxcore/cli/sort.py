"""`fluxcore sort`: write a data set anew in the order of a score."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


def sort(
    src: Annotated[Path, typer.Argument(help="Folder of the data set; it stays as it is.")],
    dst: Annotated[Path, typer.Argument(help="Folder to write.")],
    by: Annotated[str, typer.Option(help="Score to sort by, such as lm.entropy_mean.")],
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
) -> None:
    """Write a data set anew, physically sorted by a score; ties are broken by source, document and place in it.

    The tokenizer and the table of documents come along.
    """
    import fluxcore.data
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data.progress import Progress
    from fluxcore.data.tokenise import DOCUMENTS_FILE, TOKENIZER_FILE

    ds = fluxcore.data.open(src)
    with progress_bar("sorting") as progress:
        result = fluxcore.data.sort(
            ds,
            dst,
            by,
            descending=descending,
            progress=lambda done, total: progress(Progress(done, total, done * ds.chunk_tokens)),
        )
    for name in (TOKENIZER_FILE, DOCUMENTS_FILE):
        if (src / name).exists() and not (dst / name).exists():
            shutil.copyfile(src / name, dst / name)
    direction = "descending" if descending else "ascending"
    state = "was already" if result.already_sorted else "is"
    typer.echo(f"{dst}: {result.chunks:,} chunks; it {state} {src} sorted by {by}, {direction}")
