"""`fluxcore tokenize`: text to a data set of token shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fluxcore.data.text import Corpus

_TEXT = "Where the text comes from (one of --text, --dataset, --embedded)"
_HUB = "With --dataset"


def tokenize(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must hold no data set yet.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Files and folders of text, JSON Lines, Parquet.", rich_help_panel=_TEXT),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A data set of the Hugging Face hub, or in its cache.", rich_help_panel=_TEXT)
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="The text that every Python installation carries.", rich_help_panel=_TEXT)
    ] = False,
    column: Annotated[str, typer.Option(help="Column of Parquet, JSON Lines or the data set with the text.")] = "text",
    errors: Annotated[str, typer.Option(help="Bytes that are not UTF-8: strict, or replace.")] = "strict",
    budget_bytes: Annotated[int, typer.Option(help="With --embedded: at most so much of each source.")] = 1 << 20,
    seed: Annotated[int, typer.Option(help="With --embedded: which documents are drawn.")] = 0,
    config: Annotated[str | None, typer.Option(help="Its configuration.", rich_help_panel=_HUB)] = None,
    split: Annotated[str, typer.Option(help="Its split.", rich_help_panel=_HUB)] = "train",
    adapter: Annotated[
        str, typer.Option(help="How a row becomes text: text, dialogue, translation.", rich_help_panel=_HUB)
    ] = "text",
    language: Annotated[str | None, typer.Option(help="Which language of a translation.", rich_help_panel=_HUB)] = None,
    revision: Annotated[str | None, typer.Option(help="Its commit or tag.", rich_help_panel=_HUB)] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, its folder, or a hub name; without it, one is trained.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Size of the vocabulary that is trained.")] = 4096,
    chunk_tokens: Annotated[int, typer.Option(help="Tokens a chunk.")] = 256,
    min_chunk_tokens: Annotated[int, typer.Option(help="Shorter ends of documents are dropped.")] = 2,
    dtype: Annotated[
        str | None, typer.Option(help="uint16 or uint32; without it, the smaller that fits the vocabulary.")
    ] = None,
    append_end: Annotated[bool, typer.Option(help="End each document with the tokenizer's end token.")] = True,
) -> None:
    """Tokenise text into shards: chunks never mix documents, the last of each is padded.

    A command that was killed, or found the disk full, goes on behind its last full shard when it is given again.
    """
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data.text import embedded as embedded_text
    from fluxcore.data.text import files, hub
    from fluxcore.data.tokenise import tokenise
    from fluxcore.data.tokenizer import Tokenizer
    from fluxcore.data.unfinished import train_beside

    if (text is not None) + (dataset is not None) + embedded != 1:
        raise typer.BadParameter("give exactly one of --text, --dataset and --embedded")
    corpus: Corpus
    if text is not None:
        corpus = files(text, column=column, errors=errors)
    elif dataset is not None:
        corpus = hub(
            dataset, config=config, split=split, column=column, adapter=adapter, language=language, revision=revision
        )
    else:
        corpus = embedded_text(budget_bytes=budget_bytes, seed=seed)
    if tokenizer is not None:
        chosen = Tokenizer.load(tokenizer)
    else:
        with progress_bar("reading for the tokenizer") as progress:
            chosen = train_beside(out, corpus, vocab_size=vocab_size, progress=progress)
    with progress_bar("tokenising") as progress:
        report = tokenise(
            corpus,
            out,
            chosen,
            chunk_tokens=chunk_tokens,
            min_chunk_tokens=min_chunk_tokens,
            dtype=dtype,
            append_end=append_end,
            progress=progress,
        )
    typer.echo(
        f"{out}: {report.documents:,} documents, {report.chunks:,} chunks, {report.tokens:,} tokens of a vocabulary of"
        f" {chosen.vocab_size:,} ({report.text_bytes / max(report.tokens, 1):.2f} bytes a token)"
    )
    skipped = {
        "documents without a token": report.empty_documents,
        "documents that are too short": report.short_documents,
        "tokens at ends of documents": report.dropped_tokens,
        "files without a text suffix": len(getattr(corpus, "ignored", ())),
    }
    for what, count in skipped.items():
        if count:
            typer.echo(f"skipped {count:,} {what}")
