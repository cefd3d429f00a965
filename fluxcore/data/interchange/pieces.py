"""A data set read from end to end, each chunk checked, some megabytes at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import NO_TOKEN
from fluxcore.data.dataset import Dataset
from fluxcore.data.interchange.blocks import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Piece:
    """Chunks as they are stored, n of them."""

    tokens: NDArray[Any]
    """[n, T], padding included."""
    mask: NDArray[np.bool_] | None
    """[n, T]."""
    columns: dict[str, NDArray[Any]]
    """[n] each."""

    @property
    def next_tokens(self) -> NDArray[np.int64]:
        """[n], -1 where no token follows."""
        following = self.columns["next_token"].astype(np.int64)
        return np.where(following == NO_TOKEN, -1, following)

    @property
    def stream(self) -> NDArray[Any]:
        """The tokens without the padding, one chunk after another."""
        return self.tokens[np.arange(self.tokens.shape[1]) < self.columns["valid_len"][:, None]]


def read_pieces(ds: Dataset, first: int = 0, stop: int | None = None) -> Iterator[Piece]:
    """Chunks from number `first` on, up to `stop` or the end, in the order in which they are stored.

    Raises:
        CorruptShardError: a chunk is not what was written, however the data set was opened.
    """
    columns = {name: ds.column(name) for name in ds.columns}
    rows = max(BLOCK_TOKENS // ds.chunk_tokens, 1)
    end = len(ds) if stop is None else stop
    for start in range(first, end, rows):
        ids = np.arange(start, min(start + rows, end), dtype=np.uint64)
        tokens, _ = ds._core.gather(ids, out=ds.token_dtype.name, targets=False, verify=True)
        mask = np.array([ds.token_mask(int(i)) for i in ids]) if ds.manifest.token_mask else None
        yield Piece(tokens, mask, {name: values[ids] for name, values in columns.items()})
