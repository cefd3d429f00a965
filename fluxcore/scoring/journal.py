"""Scores that are done but not published yet, so that a killed run goes on where it was."""

import fcntl
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.regular_file import open_regular
from fluxcore.durable import naming
from fluxcore.errors import DatasetLockedError

_BLOCK = struct.Struct("<QQI")  # first chunk, chunks, CRC-32 of these two and of the scores
_BLOCK_KEY = struct.Struct("<QQ")


class Journal:
    """A file of blocks: float32 scores [columns, chunks] of consecutive chunks, each with its CRC.

    Its first line holds what the scores are of, and a file that holds another is begun anew. A block that was being
    written when the process died does not fit its CRC, and it and what follows are cut off. One process at a time.
    """

    def __init__(self, path: Path, header: dict[str, Any], columns: int, chunks: int) -> None:
        """Open or begin the journal at `path`; DatasetLockedError while another process has it."""
        self.path = path
        self.scores = np.full((columns, chunks), np.nan, dtype=np.float32)
        """What is done; NaN elsewhere."""
        self.done = 0
        """Chunks done; they are the first ones."""
        self._file = os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT), "r+b")
        try:
            self._lock()
            with naming(path):
                self._replay(json.dumps(header, sort_keys=True).encode() + b"\n")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):  # what a full disk left in the buffer is tried once more
            self._file.close()

    def append(self, scores: NDArray[np.float32]) -> None:
        """Keep the scores [columns, n] of the next n chunks; on return they are on the disk.

        Raises:
            OSError: they could not be written; the error names the file.
        """
        n = scores.shape[1]
        key = _BLOCK_KEY.pack(self.done, n)
        payload = np.ascontiguousarray(scores, dtype="<f4").tobytes()
        with naming(self.path):
            self._file.write(key + struct.pack("<I", zlib.crc32(payload, zlib.crc32(key))) + payload)
            self._sync()
        self.scores[:, self.done : self.done + n] = scores
        self.done += n

    def remove(self) -> None:
        """Delete the file: its scores are published."""
        self.path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetLockedError(
                f"another process is computing the scores in `{self.path}`\n\nWait for it, or stop it first."
            ) from error

    def _replay(self, header: bytes) -> None:
        if self._file.readline() != header:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(header)
        end = self._file.tell()
        while self._read_block():
            end = self._file.tell()
        self._file.seek(end)
        self._file.truncate()
        self._sync()

    def _read_block(self) -> bool:
        head = self._file.read(_BLOCK.size)
        if len(head) < _BLOCK.size:
            return False
        start, n, crc = _BLOCK.unpack(head)
        columns, chunks = self.scores.shape
        if start != self.done or n > chunks - start:
            return False
        payload = self._file.read(4 * columns * n)
        if len(payload) < 4 * columns * n or zlib.crc32(payload, zlib.crc32(head[: _BLOCK_KEY.size])) != crc:
            return False
        self.scores[:, start : start + n] = np.frombuffer(payload, dtype="<f4").reshape(columns, n)
        self.done += n
        return True

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
