"""Documents to shards: chunks of tokens that never mix documents."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.progress import Progress, ProgressCallback
from fluxcore.data.text.corpus import Corpus, Document, digest
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.data.unfinished import Unfinished
from fluxcore.data.writer import ShardWriter

TOKENIZER_FILE = "tokenizer.json"
DOCUMENTS_FILE = "documents.jsonl"
"""A JSON object a line: `doc_id`, `source`, `name`, `tokens`; documents without a chunk are left out."""

_BATCH_CHARACTERS = 4 << 20  # encoded in one call: enough for all cores, little beside the shards
_BATCH_DOCUMENTS = 1024


@dataclass(slots=True)
class TokeniseReport:
    """What went into the shards, and what did not."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    """Tokens in chunks, padding not counted."""
    text_bytes: int = 0
    empty_documents: int = 0
    """Skipped: nothing but white space, or no token."""
    short_documents: int = 0
    """Skipped: fewer tokens than `min_chunk_tokens`."""
    dropped_tokens: int = 0
    """Tokens at the ends of documents that were too few for a chunk."""


def tokenise(
    corpus: Corpus,
    path: str | PathLike[str],
    tokenizer: Tokenizer,
    *,
    chunk_tokens: int = 1024,
    min_chunk_tokens: int = 2,
    dtype: str | None = None,
    append_end: bool = True,
    shard_bytes: int = 1 << 30,
    uuid: UUID | None = None,
    allow_empty: bool = False,
    progress: ProgressCallback | None = None,
) -> TokeniseReport:
    """Write the tokens of every document as a data set at `path`, with the tokenizer and a table of the documents.

    Each document is cut into chunks of `chunk_tokens`; the last is padded, with its `valid_len`, or dropped when it has
    fewer than `min_chunk_tokens` tokens. The id of a document is its place in the corpus. Equal input gives equal
    shards, bit for bit. Until all is written, readers see nothing.

    A run that was killed, or found the disk full, leaves its full shards. The same call, with a text that has an
    `identity` and without a `uuid`, goes on behind them, and ends with the bytes and the report of a run without a
    break; documents that lie in them are read, and not encoded again. Other text, another tokenizer or option begins
    anew.

    Args:
        corpus: documents; those without text are skipped and counted.
        path: folder to write; it must hold no data set yet.
        tokenizer: its ids must fit in `dtype`.
        chunk_tokens: tokens a chunk.
        min_chunk_tokens: at least 1. A chunk of one token has nothing to predict, hence 2.
        dtype: "uint8", "uint16" or "uint32"; None for the smaller of the last two that fits.
        append_end: end each document with the tokenizer's end token, where it has one.
        shard_bytes: size of a shard file.
        uuid: of the data set; None for one that follows from the text's `identity`, the tokenizer and the options, or a
            random one where the text has no identity.
        allow_empty: write a data set without chunks where no document has one, for a part among others.
        progress: told after each batch and at the end, in bytes of text.
    Raises:
        ValueError: an argument out of range, ids beyond `dtype` (before anything is written), or no document that has
            a token, unless `allow_empty`.
        OSError: `path` cannot be written.
    """
    if not 1 <= min_chunk_tokens <= chunk_tokens:
        raise ValueError(
            f"`min_chunk_tokens` must be within [1, chunk_tokens = {chunk_tokens}], got {min_chunk_tokens}"
        )
    end = np.array([tokenizer.end_id] if append_end and tokenizer.end_id is not None else [], dtype=np.uint32)
    stored = dtype or smallest_dtype(tokenizer.vocab_size)
    told = shards_identity(
        corpus,
        tokenizer,
        chunk_tokens=chunk_tokens,
        min_chunk_tokens=min_chunk_tokens,
        dtype=stored,
        append_end=append_end,
        shard_bytes=shard_bytes,
    )
    own = told if uuid is None else None
    options = _Options(end, chunk_tokens, min_chunk_tokens)
    out = Path(path)
    with (
        ShardWriter(
            out,
            chunk_tokens=chunk_tokens,
            dtype=stored,
            vocab_size=tokenizer.vocab_size,
            sources=list(corpus.sources),
            tokenizer=tokenizer.fingerprint,
            shard_bytes=shard_bytes,
            uuid=uuid or own,
            resume=own is not None,
        ) as writer,
        Unfinished(out / DOCUMENTS_FILE, None if own is None else own.hex, writer.stored_chunks) as unfinished,
    ):
        report = _write_all(corpus, tokenizer, writer, unfinished, options, progress)
        if report.chunks == 0 and not allow_empty:
            raise ValueError(
                f"no document of {', '.join(corpus.sources)} has a chunk of tokens: {report.empty_documents} without"
                f" a token, {report.short_documents} with fewer than {min_chunk_tokens}"
            )
        _core.publish_file(out / TOKENIZER_FILE, tokenizer.to_json().encode())
        unfinished.publish()
    unfinished.clear()
    return report


def smallest_dtype(vocab_size: int) -> str:
    """The smaller of uint16 and uint32 that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True, slots=True)
class _Options:
    end: NDArray[np.uint32]
    """What each document ends with: a token, or none."""
    chunk_tokens: int
    min_chunk_tokens: int


@dataclass(frozen=True, slots=True)
class _Row:
    doc_id: int
    document: Document
    ids: NDArray[np.uint32]


def shards_identity(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    chunk_tokens: int = 1024,
    min_chunk_tokens: int = 2,
    dtype: str | None = None,
    append_end: bool = True,
    shard_bytes: int = 1 << 30,
) -> UUID | None:
    """The uuid that `tokenise` gives with these arguments, by which a finished data set is known again.

    Returns:
        What tells shards of this text, tokenizer and options from others; None where nothing tells the text.
    """
    if corpus.identity is None:
        return None
    stored = dtype or smallest_dtype(tokenizer.vocab_size)
    options = (chunk_tokens, min_chunk_tokens, stored, append_end, shard_bytes)
    return UUID(hex=digest("tokenise", corpus.identity, tokenizer.fingerprint, *options))


def _write_all(
    corpus: Corpus,
    tokenizer: Tokenizer,
    writer: ShardWriter,
    unfinished: Unfinished,
    options: _Options,
    progress: ProgressCallback | None,
) -> TokeniseReport:
    """Write the documents, but for those that an interrupted run brought into full shards."""
    report = TokeniseReport(**unfinished.start.counts)
    found = report.tokens
    writer.leave_out(report.chunks)
    for batch in _batches(corpus, unfinished.start.read):
        before, stored = unfinished.here(batch[0][0], asdict(report)), writer.stored_chunks
        rows = [
            _Row(doc_id, document, np.concatenate([ids, options.end]))
            for (doc_id, document), ids in zip(batch, _encode(tokenizer, batch, report), strict=True)
            if len(ids)
        ]
        _write(writer, unfinished, rows, options, report)
        if writer.stored_chunks > stored:
            unfinished.keep(before)
        if progress is not None:
            progress(Progress(report.text_bytes, corpus.size_bytes, report.tokens - found))
    if progress is not None:
        progress(Progress(report.text_bytes, report.text_bytes, report.tokens - found))
    return report


def _batches(corpus: Corpus, first: int) -> Iterator[list[tuple[int, Document]]]:
    """Documents with their ids, from number `first` on."""
    batch: list[tuple[int, Document]] = []
    characters = 0
    for doc_id, document in islice(enumerate(corpus), first, None):
        batch.append((doc_id, document))
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(
    tokenizer: Tokenizer, batch: list[tuple[int, Document]], report: TokeniseReport
) -> Iterable[NDArray[np.uint32]]:
    """Ids of each document of a batch; none for one without text, which is counted."""
    texts = ["" if document.is_empty else document.text for _, document in batch]
    encoded = tokenizer.encode_batch(texts)
    report.text_bytes += sum(len(document.text.encode()) for _, document in batch)
    report.empty_documents += sum(len(ids) == 0 for ids in encoded)
    return encoded


def _write(
    writer: ShardWriter, unfinished: Unfinished, rows: list[_Row], options: _Options, report: TokeniseReport
) -> None:
    kept: list[tuple[_Row, int]] = []  # with its number of chunks
    for row in rows:
        count, rest = divmod(len(row.ids), options.chunk_tokens)
        if rest >= options.min_chunk_tokens:
            count, rest = count + 1, 0
        report.dropped_tokens += rest
        if count == 0:
            report.short_documents += 1
            continue
        kept.append((row, count))
        report.documents += 1
        report.chunks += count
        report.tokens += len(row.ids) - rest
        entry = {"doc_id": row.doc_id, "source": row.document.source, "name": row.document.name}
        unfinished.add({**entry, "tokens": len(row.ids) - rest})
    if kept:
        _append(writer, kept, options.chunk_tokens)


def _append(writer: ShardWriter, kept: list[tuple[_Row, int]], chunk_tokens: int) -> None:
    counts = [count for _, count in kept]
    n = sum(counts)
    tokens = np.zeros((n, chunk_tokens), dtype=np.uint32)
    offsets = np.empty(n, dtype=np.int64)
    next_tokens = np.full(n, -1, dtype=np.int64)
    valid_lens = np.empty(n, dtype=np.int64)
    start = 0
    for row, count in kept:
        own = slice(start, start + count)
        start += count
        ids = row.ids[: count * chunk_tokens]
        tokens[own].reshape(-1)[: len(ids)] = ids
        offsets[own] = np.arange(count) * chunk_tokens
        valid_lens[own] = np.minimum(len(ids) - offsets[own], chunk_tokens)
        following = row.ids[chunk_tokens::chunk_tokens][:count]  # first token after each chunk that is not the last
        next_tokens[own][: len(following)] = following
    writer.append_batch(
        tokens,
        sources=[row.document.source for row, count in kept for _ in range(count)],
        doc_ids=np.repeat([row.doc_id for row, _ in kept], counts),
        doc_offsets=offsets,
        next_tokens=next_tokens,
        valid_lens=valid_lens,
    )
