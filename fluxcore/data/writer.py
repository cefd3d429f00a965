"""Write a data set: chunks of tokens into shards, then the manifest that makes them visible."""

import errno
import os
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fluxcore.data import chunk_checks as checks
from fluxcore.data.chunk_checks import NO_TOKEN, Array
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import MANIFEST_NAME, ColumnInfo, Manifest, SortKey, publish
from fluxcore.data.shard_series import ShardSeries, remove_unlisted

_BLOCK_CHUNKS = 256  # chunks that `append` gathers before they are written together


class ShardWriter:
    """Writes a data set into a folder; readers see all of it or nothing.

    Shards are written under temporary names, synced and renamed; the manifest comes last, in `close`. Leaving the
    `with` block by an exception, or losing the process, publishes nothing.

    Args:
        path: Folder; made if it is not there. It must not hold a data set.
        chunk_tokens: Tokens a chunk, T.
        dtype: "uint8", "uint16" or "uint32"; must hold `vocab_size` ids.
        vocab_size: Every token id is below it; at most 2^32 - 1.
        sources: Names of the sources; `append` refers to them.
        tokenizer: 16-byte fingerprint, or None where it is not known.
        score_columns: Names of float32 scores given with each chunk, with their definitions if it is a mapping.
        shard_bytes: Size at which a new shard is begun; at most 1 TiB.
        sorted_by: Score column and whether it descends, when the chunks come in that order; it is checked.
        parent: Hash of the manifest of the data set that this one is made from.
        token_mask: Each chunk comes with a mask of the positions whose target counts in the loss.
        uuid: Identity of the data set; random unless given. With it the same input gives the same bytes.

    Raises:
        ValueError: an argument is out of range, named with the way out.
        FileExistsError: the folder holds a data set already.
        DatasetLockedError: another writer is at work in the folder.
        OSError: the folder cannot be written to, or the disk is full; temporary files are taken away.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        vocab_size: int,
        sources: Sequence[str],
        chunk_tokens: int = 1024,
        dtype: str = "uint16",
        tokenizer: bytes | None = None,
        score_columns: Mapping[str, str] | Iterable[str] = (),
        shard_bytes: int = 1 << 30,
        sorted_by: tuple[str, bool] | None = None,
        parent: str | None = None,
        token_mask: bool = False,
        uuid: uuids.UUID | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        scores = score_columns if isinstance(score_columns, Mapping) else dict.fromkeys(score_columns, "")
        checks.check_vocabulary(vocab_size, dtype)
        checks.check_sources(sources)
        if sorted_by is not None and sorted_by[0] not in scores:
            raise ValueError(f"`sorted_by` must be one of the score columns {list(scores)}, got {sorted_by[0]!r}")
        self._manifest = Manifest(
            generation=1,
            uuid=(uuid or uuids.uuid4()).hex,
            chunk_tokens=int(checks.integers(chunk_tokens, "chunk_tokens", low=1, high=1 << 24, dtype="uint32")),
            dtype=dtype,
            vocab_size=int(vocab_size),
            tokenizer=None if tokenizer is None else checks.fingerprint(tokenizer),
            token_mask=token_mask,
            sources=tuple(sources),
            columns={name: ColumnInfo(dtype="float32", definition=text) for name, text in scores.items()},
            sorted_by=None if sorted_by is None else SortKey(column=sorted_by[0], descending=sorted_by[1]),
            parent=parent,
            shards=(),
        )
        self._source_index = {name: number for number, name in enumerate(sources)}
        self._given_indices: list[Array] = []
        self._pending: list[dict[str, Array]] = []
        self._chunks = 0
        self._last_key: float | None = None
        self._series = ShardSeries(self.path, self._manifest, shard_bytes)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(self.path)
        self._open = True
        try:
            if (self.path / MANIFEST_NAME).exists():
                raise FileExistsError(
                    errno.EEXIST,
                    "the folder holds a data set already; write to another folder, or remove this one first",
                    str(self.path),
                )
            remove_unlisted(self.path, None)
        except BaseException:
            self._abandon()
            raise

    def append(
        self,
        tokens: Any,
        *,
        source: str | int,
        doc_id: int,
        doc_offset: int = 0,
        next_token: int | None = None,
        scores: Mapping[str, float] | None = None,
        mask: Any = None,
    ) -> None:
        """Add one chunk.

        Args:
            tokens: [1 to T] integers; a shorter chunk is padded with zeros and its length kept as `valid_len`.
            source: Name or number of its source.
            doc_id: Number of its document, 0 to 2^64 - 1.
            doc_offset: Position of its first token within the document, in tokens.
            next_token: The token that follows it in the document, None at the end.
            scores: A value for each score column.
            mask: As many booleans as tokens, where the writer was made with `token_mask`.

        Raises:
            TypeError, ValueError: a value cannot be stored; nothing of this chunk is.
        """
        row = checks.token_ids(tokens, vocab_size=self._manifest.vocab_size, dtype=self._manifest.dtype)
        size = self._manifest.chunk_tokens
        if row.ndim != 1 or not 1 <= row.size <= size:
            raise ValueError(
                f"`tokens` must have one dimension of 1 to {size} tokens (`chunk_tokens`), got shape {row.shape}"
            )
        if mask is not None:
            mask = np.asarray(mask)[None]
            mask = np.pad(mask, ((0, 0), (0, size - row.size))) if mask.shape == (1, row.size) else mask
        columns = self._columns(
            1,
            sources=[source],
            doc_ids=[doc_id],
            doc_offsets=[doc_offset],
            next_tokens=[
                -1
                if next_token is None
                else checks.integers(next_token, "next_token", low=0, high=self._manifest.vocab_size - 1, dtype="int64")
            ],
            valid_lens=[row.size],
            scores={name: [value] for name, value in (scores or {}).items()},
            mask=mask,
        )
        columns["tokens"] = np.pad(row, (0, size - row.size))[None]
        self._push(columns)

    def append_batch(
        self,
        tokens: Any,
        *,
        sources: Sequence[str | int] | Array | str,
        doc_ids: Any,
        doc_offsets: Any,
        next_tokens: Any = None,
        valid_lens: Any = None,
        scores: Mapping[str, Any] | None = None,
        original_index: Any = None,
        mask: Any = None,
    ) -> None:
        """Add n chunks.

        Args:
            tokens: [n, T] integers; beyond a chunk's valid length they are stored as zeros.
            sources: n names or numbers, or one name for all.
            doc_ids: [n].
            doc_offsets: [n].
            next_tokens: [n], -1 where none follows; None: nowhere.
            valid_lens: [n], within [1, T]; None: all full.
            scores: Name to [n], for each score column.
            original_index: [n], the place of each chunk in the data set that this one reorders, unique; None: count
                on. Give it for every batch or for none.
            mask: [n, T] booleans, where the writer was made with `token_mask`.

        Raises:
            TypeError, ValueError: a value cannot be stored; nothing of this batch is.
        """
        rows = checks.token_ids(tokens, vocab_size=self._manifest.vocab_size, dtype=self._manifest.dtype)
        size = self._manifest.chunk_tokens
        if rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"`tokens` must have shape [n, {size}] (`chunk_tokens`), got {list(rows.shape)}")
        count = len(rows)
        columns = self._columns(
            count,
            sources=[sources] * count if isinstance(sources, str) else sources,
            doc_ids=doc_ids,
            doc_offsets=doc_offsets,
            next_tokens=np.full(count, -1) if next_tokens is None else next_tokens,
            valid_lens=np.full(count, size) if valid_lens is None else valid_lens,
            scores=scores or {},
            mask=mask,
            original_index=original_index,
        )
        if (columns["valid_len"] < size).any():
            rows = np.where(np.arange(size) < columns["valid_len"][:, None], rows, rows.dtype.type(0))
        columns["tokens"] = rows
        self._push(columns)

    def close(self) -> None:
        """Publish the data set. Doing it twice is harmless."""
        if not self._open:
            return
        try:
            self._flush()
            self._check_unique()
            shards = self._series.finish()
            publish(self.path, replace(self._manifest, shards=shards))
        except BaseException:
            self._abandon()
            raise
        self._open = False
        self._lock.release()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._abandon()

    def _abandon(self) -> None:
        self._open = False
        try:
            self._series.discard()
        finally:
            self._lock.release()

    def _columns(self, count: int, **given: Any) -> dict[str, Array]:
        """Every column of `count` chunks, checked and converted."""
        if not self._open:
            raise ValueError("the writer is closed\n\nWrite before leaving the `with` block.")
        manifest = self._manifest
        last_token = manifest.vocab_size - 1
        following = checks.integers(given["next_tokens"], "next_token", low=-1, high=last_token, dtype="int64")
        columns = {
            "source": checks.source_numbers(given["sources"], manifest.sources, self._source_index),
            "doc_id": checks.integers(given["doc_ids"], "doc_id", low=0, high=(1 << 64) - 1, dtype="uint64"),
            "doc_offset": checks.integers(given["doc_offsets"], "doc_offset", low=0, high=NO_TOKEN, dtype="uint32"),
            "next_token": np.where(following < 0, NO_TOKEN, following).astype(np.uint32),
            "original_index": self._indices(count, given.get("original_index")),
            "valid_len": checks.integers(
                given["valid_lens"], "valid_len", low=1, high=manifest.chunk_tokens, dtype="uint32"
            ),
        }
        scores = given["scores"]
        if scores.keys() != manifest.columns.keys():
            raise ValueError(f"`scores` must give each of {sorted(manifest.columns)}, got {sorted(scores)}")
        columns |= {name: checks.score_values(scores[name], name, count) for name in manifest.columns}
        for name, values in columns.items():
            if values.shape != (count,):
                raise ValueError(f"`{name}` must have shape ({count},), one a chunk, got {values.shape}")
        if manifest.token_mask:
            columns["mask"] = checks.packed_mask(given["mask"], count, manifest.chunk_tokens)
        elif given["mask"] is not None:
            raise ValueError(
                "`mask` was given, but the writer was made without it\n\nPass token_mask=True to ShardWriter."
            )
        return columns

    def _push(self, columns: dict[str, Array]) -> None:
        if self._manifest.sorted_by is not None:
            self._last_key = checks.check_order(
                columns[self._manifest.sorted_by.column], self._manifest.sorted_by, self._last_key
            )
        self._pending.append(columns)
        self._chunks += len(columns["tokens"])
        if len(self._pending) >= _BLOCK_CHUNKS or len(columns["tokens"]) >= _BLOCK_CHUNKS:
            self._flush()

    def _flush(self) -> None:
        blocks, self._pending = self._pending, []
        if blocks:
            joined = blocks[0] if len(blocks) == 1 else {k: np.concatenate([b[k] for b in blocks]) for k in blocks[0]}
            self._series.append(joined)

    def _indices(self, count: int, given: Any) -> Array:
        total = self._chunks
        if total > 0 and count > 0 and (given is not None) != bool(self._given_indices):
            raise ValueError("`original_index` must be given for every batch or for none")
        if given is None:
            return np.arange(total, total + count, dtype=np.uint64)
        indices = checks.integers(given, "original_index", low=0, high=(1 << 64) - 1, dtype="uint64")
        if count > 0:
            self._given_indices.append(indices)
        return indices

    def _check_unique(self) -> None:
        if not self._given_indices:
            return
        indices = np.sort(np.concatenate(self._given_indices))
        twice = indices[1:][indices[1:] == indices[:-1]]
        if twice.size:
            raise ValueError(f"`original_index` must be unique, got {twice[0]} more than once")
