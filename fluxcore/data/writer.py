"""Write a data set: chunks of tokens into shards, then the manifest that makes them visible."""

import os
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fluxcore.data import chunk_checks as checks
from fluxcore.data.argument_checks import integer, yes_or_no
from fluxcore.data.chunk_checks import Array
from fluxcore.data.lock import WriterLock
from fluxcore.data.manifest import MANIFEST_NAME, ColumnInfo, publish
from fluxcore.data.shard_series import ShardSeries, check_vacant, remove_unlisted
from fluxcore.data.writer_settings import first_manifest

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
        score_columns: Names of the columns that `append` takes as `scores`, float32; with their definitions if it is a
            mapping. A `ColumnInfo` as the definition, for example from another manifest, also gives the type.
        shard_bytes: Size at which a new shard is begun; at most 1 TiB.
        sorted_by: Score column and whether it descends, when the chunks come in that order; it is checked.
        parent: Hash of the manifest of the data set that this one is made from.
        token_mask: Each chunk comes with a mask of the positions whose target counts in the loss.
        uuid: Identity of the data set; random unless given. With it the same input gives the same bytes.
        resume: Take over the full shards of an interrupted writer with this `uuid`, which must have been given the very
            same chunks; as many of those that are appended are left out, but checked. An `OSError` or a
            `KeyboardInterrupt` then keeps full shards too, for the next one.

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
        score_columns: Mapping[str, str | ColumnInfo] | Iterable[str] = (),
        shard_bytes: int = 1 << 30,
        sorted_by: tuple[str, bool] | None = None,
        parent: str | None = None,
        token_mask: bool = False,
        uuid: uuids.UUID | None = None,
        resume: bool = False,
    ) -> None:
        self.path = Path(path).absolute()
        if yes_or_no(resume, "resume") and uuid is None:
            raise ValueError("`uuid` must be given with `resume`: it tells which shards are of the same data set")
        self._manifest = first_manifest(
            chunk_tokens=chunk_tokens,
            dtype=dtype,
            vocab_size=vocab_size,
            sources=sources,
            tokenizer=tokenizer,
            score_columns=score_columns,
            sorted_by=sorted_by,
            parent=parent,
            token_mask=token_mask,
            uuid=uuid,
        )
        self._given_indices: list[Array] = []
        self._pending: list[dict[str, Array]] = []
        self._chunks = 0
        self._last_key: float | None = None
        self._resume = resume
        self._series = ShardSeries(self.path, self._manifest, shard_bytes)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(self.path)
        self._open = True
        try:
            check_vacant(self.path)
            self._left_out = self._series.adopt() if resume else 0
            remove_unlisted(self.path, None, keep=[shard.name for shard in self._series.shards])
        except BaseException as error:
            self._abandon(error)
            raise

    @property
    def stored_chunks(self) -> int:
        """Chunks in full shards, which a writer that goes on takes over."""
        return self._series.chunks

    def leave_out(self, count: int) -> None:
        """Count the next chunks as given, unseen: they lie in shards that were taken over.

        Raises:
            ValueError: so many do not lie there.
        """
        if not 0 <= count <= self._left_out:
            raise ValueError(f"`count` must be within [0, {self._left_out}], the chunks taken over, got {count}")
        self._chunks, self._left_out = self._chunks + count, self._left_out - count

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
        if mask is not None and np.shape(mask) == row.shape:
            mask = np.pad(np.asarray(mask), (0, size - row.size))
        following = -1 if next_token is None else integer(next_token, "next_token")
        if next_token is not None and following < 0:
            raise ValueError(f"`next_token` must be a token or None, got {next_token}")
        self._push(
            {
                "tokens": np.pad(row, (0, size - row.size))[None],
                "source": [source],
                "doc_id": [doc_id],
                "doc_offset": [doc_offset],
                "next_token": [following],
                "valid_len": [row.size],
                "scores": {name: [value] for name, value in _mapping(scores).items()},
                "mask": None if mask is None else np.asarray(mask)[None],
            },
            at_once=False,
        )

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
        lengths = np.full(count, size) if valid_lens is None else np.asarray(valid_lens)
        if lengths.shape == (count,) and (lengths < size).any():
            rows = np.where(np.arange(size) < lengths[:, None], rows, rows.dtype.type(0))
        self._push(
            {
                "tokens": rows,
                "source": [sources] * count if isinstance(sources, str) else sources,
                "doc_id": doc_ids,
                "doc_offset": doc_offsets,
                "next_token": np.full(count, -1) if next_tokens is None else next_tokens,
                "valid_len": lengths,
                "scores": _mapping(scores),
                "mask": mask,
                "original_index": original_index,
            },
            at_once=True,
        )

    def close(self) -> None:
        """Publish the data set. Doing it twice is harmless."""
        if not self._open:
            return
        try:
            self._flush()
            checks.check_unique(self._given_indices)
            if self._left_out > 0:
                raise ValueError(f"{self._left_out} chunks are missing that the interrupted writer was given")
            publish(self.path, replace(self._manifest, shards=self._series.finish()))
        except BaseException as error:
            self._abandon(error)
            raise
        self._open = False
        self._lock.release()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._abandon(error)

    def _abandon(self, error: BaseException | None) -> None:
        self._open = False
        # Published is what has a manifest, whatever came after that: a folder that cannot be synced, an interrupt.
        keep = (self._resume and isinstance(error, OSError | KeyboardInterrupt)) or (self.path / MANIFEST_NAME).exists()
        try:
            if self._lock.is_ours:  # a fork leaves alone what the process that made the writer goes on with
                (self._series.discard_unfinished if keep else self._series.discard)()
        finally:
            self._lock.release()

    def _push(self, given: dict[str, Any], *, at_once: bool) -> None:
        """Check chunks and take them in; written `at_once` they may lie in the caller's own arrays."""
        if not self._open:
            raise ValueError("the writer is closed\n\nWrite before leaving the `with` block.")
        count, indices = len(given["tokens"]), given.get("original_index")
        if self._chunks > 0 and (indices is not None) != bool(self._given_indices):
            raise ValueError("`original_index` must be given for every batch or for none")
        if indices is None:
            given["original_index"] = np.arange(self._chunks, self._chunks + count, dtype=np.uint64)
        columns = checks.chunk_columns(self._manifest, count, given)
        if count == 0:
            return
        if (key := self._manifest.sorted_by) is not None:
            self._last_key = checks.check_order(columns[key.column], key, self._last_key)
        if indices is not None:
            self._given_indices.append(columns["original_index"].copy())
        self._chunks += count
        self._left_out -= (known := min(self._left_out, count))
        if known < count:
            self._pending.append({name: col[known:] for name, col in {"tokens": given["tokens"], **columns}.items()})
        if at_once or len(self._pending) >= _BLOCK_CHUNKS:
            self._flush()

    def _flush(self) -> None:
        self._lock.check_process()
        if not self._pending:
            return
        blocks, self._pending = self._pending, []
        try:
            joined = blocks[0] if len(blocks) == 1 else {k: np.concatenate([b[k] for b in blocks]) for k in blocks[0]}
            self._series.append(joined)
        except BaseException as error:
            self._abandon(error)  # a part of the chunks may be written: nothing of this data set can be published
            raise


def _mapping(scores: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if scores is not None and not isinstance(scores, Mapping):
        raise TypeError(f"`scores` must map names of score columns to values, got {scores!r}")
    return scores or {}
