"""What the C++ loader writes about the rows of a batch, in memory taken for many batches at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FACTS = ("chunk_ids", "source", "doc_id", "doc_offset", "valid_len")
_BATCHES = 64
"""To take memory for one batch, and to ask for its address, takes as long as copying a tenth of the batch."""


class Facts(NamedTuple):
    """Of one batch."""

    of_many: NDArray[np.int64]
    """[64, 5 b]"""
    place: int
    rows: int

    def array(self) -> NDArray[np.int64]:
        """[5, rows], a row for each of `FACTS`; a view."""
        return self.of_many[self.place, : len(FACTS) * self.rows].reshape(len(FACTS), self.rows)


class FactsMemory:
    """Hands out memory for the facts of batches of at most so many rows, each piece once."""

    def __init__(self, rows: int) -> None:
        self._row = len(FACTS) * rows
        self._place = _BATCHES
        self._array = np.empty((0, self._row), np.int64)
        self._address = 0

    def take(self, rows: int) -> tuple[Facts, int]:
        """Memory for the facts of a batch, and its address."""
        if self._place == _BATCHES:
            self._array = np.empty((_BATCHES, self._row), np.int64)
            self._address = self._array.ctypes.data
            self._place = 0
        facts = Facts(self._array, self._place, rows)
        address = self._address + self._place * self._row * self._array.itemsize
        self._place += 1
        return facts, address
