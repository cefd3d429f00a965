"""Documents that arrive in blocks, cut into chunks."""

from typing import Any

import numpy as np

from fluxcore.data.interchange.blocks import Positions, Tokens
from fluxcore.data.writer import ShardWriter

# A position within a document is 32 bits wide; a stream without documents can be longer.
_DOCUMENT_TOKENS = 1 << 31


class Chunker:
    """Cuts documents into chunks of T tokens and writes them; the last chunk of each is short, and every token is kept.

    A document of more than `document_tokens` is counted as several; the token after each chunk is known all the same.

    Args:
        writer: where chunks go.
        chunk_tokens: T.
        dtype: of the tokens as stored; they must be known to fit.
    """

    def __init__(
        self, writer: ShardWriter, *, chunk_tokens: int, dtype: str, document_tokens: int = _DOCUMENT_TOKENS
    ) -> None:
        self._writer = writer
        self._size = chunk_tokens
        self._dtype = dtype
        self._document_tokens = document_tokens
        self._carry: Tokens = np.empty(0, dtype)  # of the open document, at most T: the last may yet be followed
        self._document = 0
        self._offset = 0  # of the carry within its document
        self.chunks = 0
        self.tokens = 0

    @property
    def documents(self) -> int:
        """Documents so far, empty ones included."""
        return self._document

    def add(self, tokens: Tokens, ends: Positions, source: str) -> None:
        """Take in what follows; `ends` as in `Block`."""
        held = self._carry.size
        joined = np.concatenate([self._carry, tokens.astype(self._dtype)])
        bounds = np.concatenate([[0], np.asarray(ends, np.int64) + held, [len(joined)]])
        starts, lengths = bounds[:-1], np.diff(bounds)
        counts = -(-lengths // self._size)
        counts[-1] = max(lengths[-1] - 1, 0) // self._size  # of the open document, only what is followed
        self._write(joined, starts, lengths, counts, source)
        written = int(counts[-1]) * self._size
        self._carry = joined[int(starts[-1]) + written :].copy()
        self._document += len(ends)
        self._offset = (0 if len(ends) else self._offset) + written
        if self._offset >= self._document_tokens:
            self._document += 1
            self._offset = 0
        self.tokens += len(tokens)

    def _write(self, joined: Tokens, starts: Positions, lengths: Positions, counts: Positions, source: str) -> None:
        total = int(counts.sum())
        if total == 0:
            return
        document = np.repeat(np.arange(len(counts)), counts)
        offset = (np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)) * self._size
        first = starts[document] + offset
        left = lengths[document] - offset
        following: Any = np.full(total, -1, np.int64)
        followed = left > self._size
        following[followed] = joined[first[followed] + self._size]
        if total * self._size == first[-1] + self._size - first[0] and left[-1] >= self._size:
            rows = joined[first[0] : first[-1] + self._size].reshape(total, self._size)
        else:
            rows = joined.take(first[:, None] + np.arange(self._size), mode="clip")  # the writer clears the padding
        self._writer.append_batch(
            rows,
            sources=source,
            doc_ids=self._document + document,
            doc_offsets=offset + np.where(document == 0, self._offset, 0),
            next_tokens=following,
            valid_lens=np.minimum(left, self._size),
        )
        self.chunks += total

    def finish(self, source: str) -> None:
        """End the open document."""
        if self._carry.size:
            self.add(self._carry[:0], np.zeros(1, np.int64), source)
