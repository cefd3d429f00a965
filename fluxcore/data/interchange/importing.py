"""Data of other projects to a data set."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from fluxcore.data.interchange import arrow_chunks, hdf5
from fluxcore.data.interchange.arrow_folder import TOKENS, ArrowFiles
from fluxcore.data.interchange.blocks import Block, Boundary, check_ids
from fluxcore.data.interchange.chunker import Chunker
from fluxcore.data.interchange.megatron import MegatronFiles
from fluxcore.data.interchange.modded_nanogpt import ModdedNanogptFiles
from fluxcore.data.interchange.nanogpt import NanogptFiles
from fluxcore.data.progress import Progress, ProgressCallback
from fluxcore.data.tokenise import smallest_dtype
from fluxcore.data.writer import ShardWriter

IMPORTS = ("nanogpt", "modded-nanogpt", "megatron", "hdf5", "datasets")

_EXPORTED = {"datasets": arrow_chunks, "hdf5": hdf5}

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What went into the data set."""

    path: Path
    documents: int | None
    """None for a data set that `export` wrote."""
    chunks: int
    tokens: int


class _Reader(Protocol):
    @property
    def tokens(self) -> int | None: ...
    def blocks(self) -> Iterator[Block]: ...


def convert(
    inputs: Paths | Mapping[str, Paths],
    path: str | PathLike[str],
    *,
    format: str,  # noqa: A002
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
    dtype: str | None = None,
    boundary: int | None = None,
    boundary_at: str = "end",
    token_dtype: str | None = None,
    column: str = TOKENS,
    tokenizer: bytes | None = None,
    shard_bytes: int = 1 << 30,
    uuid: UUID | None = None,
    progress: ProgressCallback | None = None,
) -> ConvertReport:
    """Write the tokens of other projects' files as a data set at `path`; every token is kept.

    A run that was killed, or found the disk full, leaves its full shards; the same call reads the files again and goes
    on writing from there.

    Chunks never mix documents: the last one of each is short. Documents are the rows of "datasets", those that an .idx
    of "megatron" lists, and in the two other formats what ends or starts with `boundary`. Without it each file is one
    document. A folder that `export` wrote as "datasets" or "hdf5" becomes the data set that it was, every column
    included.

    Args:
        inputs: files, or folders of them, in order; by name of the source where there are several sources, else the
            source has the name of the format.
        path: folder to write; it must hold no data set yet.
        format: "nanogpt" (.bin of uint16), "modded-nanogpt" (.bin with a header, also that of llm.c), "megatron" (.bin
            and .idx, also those of DeepSpeed), "hdf5" (.h5 with `token_chunks`; without names of sources, each category
            is one) or "datasets" (folders made by `Dataset.save_to_disk`).
        vocab_size: every id must be below it. Needed, but for what `export` wrote.
        chunk_tokens: tokens a chunk. Default 1024, or with "hdf5" those of a row.
        dtype: of the tokens as stored; None: uint16 or uint32, the smaller that holds the vocabulary.
        boundary: id of the token at the end of each document, such as 50256 for GPT-2.
        boundary_at: "end", or "start" where it opens each document, as modded-nanogpt has it.
        token_dtype: with "megatron", of the tokens in the .bin, where the index leaves two readings.
        column: with "datasets", the column of lists of ids.
        tokenizer: 16-byte fingerprint, or None where it is not known.
        shard_bytes: size of a shard file.
        uuid: of the data set; None for one that follows from the files (their paths, sizes and times) and the options.
        progress: told after each block and at the end, in tokens.
    Raises:
        MalformedInputError: a file is not of the format, or has an id beyond the vocabulary; nothing is published.
        ValueError: an argument out of range, or no token at all.
        MissingExtraError: "datasets" needs pyarrow, and "hdf5" h5py, which is not installed.
        OSError: a file cannot be read, or `path` cannot be written.
    """
    if format not in IMPORTS:
        raise ValueError(f"`format` must be one of {', '.join(IMPORTS)}, got {format!r}")
    if boundary is not None and format not in ("nanogpt", "modded-nanogpt"):
        raise ValueError(f"`boundary` must be left out: files of {format} list their documents")
    if token_dtype is not None and format != "megatron":
        raise ValueError(f"`token_dtype` must be left out: files of {format} leave no choice")
    if boundary_at not in ("start", "end"):
        raise ValueError(f"`boundary_at` must be start or end, got {boundary_at!r}")
    by_source = {name: _paths(files) for name, files in _named(inputs, format).items()}
    report = progress or (lambda _: None)
    if format in _EXPORTED and (facts := _facts_of_export(by_source, format)) is not None:
        given = {"vocab_size": vocab_size, "chunk_tokens": chunk_tokens, "dtype": dtype}
        given["tokenizer"] = None if tokenizer is None else tokenizer.hex()
        for name, value in given.items():
            if value not in (None, facts[name]):
                raise ValueError(f"`{name}` must be {facts[name]}, as the exported data set has it, got {value}")
        (folder,) = next(iter(by_source.values()))
        own = uuid or _identity(by_source, format, shard_bytes)
        return _restore(format, folder, facts, Path(path), report, uuid=own, shard_bytes=shard_bytes, resume=True)
    if vocab_size is None:
        raise ValueError(f"`vocab_size` must be given: files of {format} do not tell the size of their vocabulary")
    if boundary is not None and not 0 <= boundary < vocab_size:
        raise ValueError(f"`boundary` must be a token of the vocabulary of {vocab_size}, got {boundary}")
    make: dict[str, Callable[[list[Path]], _Reader]] = {
        "nanogpt": lambda files: NanogptFiles(files, Boundary(boundary, boundary_at == "start")),
        "modded-nanogpt": lambda files: ModdedNanogptFiles(files, Boundary(boundary, boundary_at == "start")),
        "megatron": lambda files: MegatronFiles(files, token_dtype),
        "hdf5": lambda files: hdf5.Hdf5Files(files),
        "datasets": lambda files: ArrowFiles(files, column),
    }
    readers = {name: make[format](files) for name, files in by_source.items()}
    if format == "hdf5" and not isinstance(inputs, Mapping):
        files = _all(by_source)
        readers = {name: hdf5.Hdf5Files(files, name) for name in hdf5.list_categories(files)} or readers
    usual = hdf5.chunk_width(_all(by_source)) if format == "hdf5" else 1024
    size = usual if chunk_tokens is None else chunk_tokens
    stored = dtype or smallest_dtype(vocab_size)
    with ShardWriter(
        path,
        chunk_tokens=size,
        dtype=stored,
        vocab_size=vocab_size,
        sources=list(readers),
        tokenizer=tokenizer,
        shard_bytes=shard_bytes,
        uuid=uuid
        or _identity(
            by_source, format, vocab_size, size, stored, boundary, boundary_at, token_dtype, column, tokenizer
        ),
        resume=True,
    ) as writer:
        chunker = Chunker(writer, chunk_tokens=size, dtype=stored)
        _write_all(chunker, readers, vocab_size, report)
        if chunker.chunks == 0:
            raise ValueError(f"`inputs` must hold tokens, got none in {', '.join(map(str, _all(by_source)))}")
    report(Progress(chunker.tokens, chunker.tokens, chunker.tokens))
    return ConvertReport(Path(path), chunker.documents, chunker.chunks, chunker.tokens)


def _identity(by_source: Mapping[str, list[Path]], *options: object) -> UUID:
    """What tells these inputs from others, and from themselves when they were changed."""
    facts: list[object] = [*options]
    for source, paths in by_source.items():
        for given in paths:
            # Of an index, the file beside it too.
            prefix = "" if given.is_dir() else given.stem
            for path in sorted((given if given.is_dir() else given.parent).iterdir()):
                if not path.name.startswith(prefix) or not path.is_file():
                    continue
                status = path.stat()
                facts.append((source, str(path.absolute()), status.st_size, status.st_mtime_ns))
    return UUID(bytes=hashlib.blake2b(repr(facts).encode(), digest_size=16).digest())


def _write_all(chunker: Chunker, readers: Mapping[str, _Reader], vocab_size: int, report: ProgressCallback) -> None:
    sizes = [reader.tokens for reader in readers.values()]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    for source, reader in readers.items():
        for block in reader.blocks():
            check_ids(block, vocab_size)
            chunker.add(block.tokens, block.ends, source)
            report(Progress(chunker.tokens, total, chunker.tokens))
        chunker.finish(source)


def _restore(
    format: str,  # noqa: A002
    folder: Path,
    facts: Mapping[str, Any],
    path: Path,
    report: ProgressCallback,
    **options: Any,
) -> ConvertReport:
    total = facts["chunks"]
    chunks, tokens = 0, 0
    for chunks, tokens in _EXPORTED[format].restore(folder, facts, path, **options):
        report(Progress(chunks, total, tokens))
    return ConvertReport(path, None, chunks, tokens)


def _facts_of_export(by_source: Mapping[str, list[Path]], format: str) -> dict[str, Any] | None:  # noqa: A002
    folders = _all(by_source)
    found = [_EXPORTED[format].read_facts(folder) for folder in folders]
    if len(found) > 1 and any(facts is not None for facts in found):
        raise ValueError(f"a data set that `export` wrote is converted alone, got {len(found)} folders")
    facts: dict[str, Any] | None = found[0]
    return facts


def _named(inputs: Paths | Mapping[str, Paths], format: str) -> Mapping[str, Paths]:  # noqa: A002
    named = inputs if isinstance(inputs, Mapping) else {format: inputs}
    if not named or not all(_paths(files) for files in named.values()):
        raise ValueError("`inputs` must name a file or a folder for each source, got none")
    return named


def _paths(files: Paths) -> list[Path]:
    return [Path(files)] if isinstance(files, str | PathLike) else [Path(file) for file in files]


def _all(by_source: Mapping[str, list[Path]]) -> list[Path]:
    return [path for files in by_source.values() for path in files]
