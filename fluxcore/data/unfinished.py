"""What a run of `tokenise` leaves beside its shards, so that the next one goes on behind the last full shard.

Three hidden files stand in the folder until the data set is published: the table of the documents as far as it is
written, a checkpoint, and the tokenizer if it was trained. A checkpoint is written, durably, each time a shard has been
filled, and tells how much of the corpus and of the table lies in full shards alone. The shards decide: a checkpoint
that counts more chunks than stand is passed over.
"""

import json
import os
import re
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fluxcore import _core
from fluxcore.data.lock import WriterLock
from fluxcore.data.progress import ProgressCallback
from fluxcore.data.shard_series import check_vacant
from fluxcore.data.text.corpus import Corpus, digest
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.durable import naming

_CHECKPOINT = ".tokenise.json"
_TRAINED = ".trained-{}.json"
_BEING_WRITTEN = re.compile(r"\.(\.tokenise|\.trained-[0-9a-f]+|tokenizer)\.json\.[0-9]+\.tmp")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run had come at the end of a batch of documents."""

    read: int = 0
    """Documents of the corpus."""
    counts: dict[str, int] = field(default_factory=dict)
    """The report; `chunks` among them."""
    table_bytes: int = 0
    table_crc32: int = 0


class Unfinished:
    """The table of the documents and the checkpoint of one run; made while the folder's writer lock is held.

    Left by an OSError or a KeyboardInterrupt all stays as it is, by any other exception it is taken away.

    Args:
        table: where the table of the documents will stand, beside the shards.
        uuid: of the data set, if that tells its text, tokenizer and options; None: what was left counts for nothing.
        chunks: that stand in full shards.
    """

    def __init__(self, table: Path, uuid: str | None, chunks: int) -> None:
        self._uuid = uuid
        self._published = table
        self._table, self._path = table.with_name(f".{table.name}.tmp"), table.with_name(_CHECKPOINT)
        for left in table.parent.iterdir():
            if _BEING_WRITTEN.fullmatch(left.name):
                left.unlink()
        self.start = self._find(chunks)
        """Where to go on."""
        if self.start == Checkpoint():
            self._path.unlink(missing_ok=True)  # before the table that it tells of is changed
        self._bytes, self._crc32 = self.start.table_bytes, self.start.table_crc32
        with naming(self._table):
            self._file = self._table.open("r+b" if self._bytes else "wb")
            self._file.truncate(self._bytes)
            self._file.seek(self._bytes)

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line to the table."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with naming(self._table):
            self._file.write(line)
        self._bytes, self._crc32 = self._bytes + len(line), zlib.crc32(line, self._crc32)

    def here(self, read: int, counts: dict[str, int]) -> Checkpoint:
        """A checkpoint for `keep`, if its chunks come to lie in full shards."""
        return Checkpoint(read, counts, self._bytes, self._crc32)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; all its chunks lie in full shards."""
        if self._uuid is None:
            return
        self._sync()
        _core.publish_file(self._path, json.dumps({"uuid": self._uuid, **asdict(checkpoint)}).encode())

    def publish(self) -> None:
        """Give the table its name; the rest is for `clear`, once the data set is published."""
        self._sync()
        self._file.close()
        self._table.replace(self._published)

    def clear(self) -> None:
        """Take away the hidden files."""
        for path in (self._path, self._table, *self._table.parent.glob(_TRAINED.format("*"))):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            with naming(self._table):
                self._file.close()
        finally:
            if kind is not None and not (self._uuid and isinstance(error, OSError | KeyboardInterrupt)):
                self.clear()

    def _find(self, chunks: int) -> Checkpoint:
        """The checkpoint of an interrupted run, or one at the start."""
        if self._uuid is None or not self._path.is_file():
            return Checkpoint()
        found = json.loads(self._path.read_bytes())
        if found.pop("uuid") != self._uuid:
            return Checkpoint()
        checkpoint = Checkpoint(**found)
        if not self._table.exists() and self._published.exists():
            self._published.replace(self._table)  # it had its name already, the data set not yet
        if checkpoint.counts["chunks"] > chunks or not self._stands(checkpoint):
            return Checkpoint()
        return checkpoint

    def _stands(self, checkpoint: Checkpoint) -> bool:
        """Whether the table begins with what the checkpoint knows."""
        if not self._table.is_file():
            return False
        crc32, left = 0, checkpoint.table_bytes
        with self._table.open("rb") as file:
            while block := file.read(min(left, 1 << 20)):
                crc32, left = zlib.crc32(block, crc32), left - len(block)
        return (left, crc32) == (0, checkpoint.table_crc32)

    def _sync(self) -> None:
        with naming(self._table):
            self._file.flush()
            os.fsync(self._file.fileno())


def train_beside(
    folder: Path, corpus: Corpus, *, vocab_size: int, progress: ProgressCallback | None = None
) -> Tokenizer:
    """The tokenizer for a data set at `folder`: trained, or as an interrupted run trained it on the same text.

    Args:
        folder: of the data set that `tokenise` will write, which takes the trained tokenizer's file away in the end.
        corpus: the text; where it has no identity, the tokenizer is not kept.
        vocab_size: as `Tokenizer.train`, which see for the rest.
    Raises:
        FileExistsError: the folder holds a data set already.
        DatasetLockedError: a writer is at work in the folder.
    """
    check_vacant(folder)
    identity = corpus.identity
    path = folder / _TRAINED.format(digest(identity, vocab_size))
    if identity is not None and path.is_file():
        return Tokenizer.load(path)
    tokenizer = Tokenizer.train(corpus, vocab_size=vocab_size, progress=progress)
    if identity is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with WriterLock(folder):
            check_vacant(folder)
            _core.publish_file(path, tokenizer.to_json().encode())
    return tokenizer
