"""What a loader hands out."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore import _core

_DESCRIBED = ("source", "doc_id", "doc_offset", "valid_len")  # as `ShardSet.describe` gives them


class BatchMeta:
    """What is known about the rows of a batch; [b] int64 tensors, and float32 scores by name.

    All but the numbers of the chunks is looked up when it is first asked for, in columns that are checked then: what
    a run has no use for costs it neither time nor memory. Any of it can raise a CorruptShardError.
    """

    def __init__(
        self, ids: NDArray[np.int64], shards: _core.ShardSet, columns: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        """`ids` [b] are chunks of `shards`; `columns` hold a score for every chunk."""
        self._ids = ids
        self._shards = shards
        self._columns = columns or {}

    @cached_property
    def chunk_ids(self) -> Tensor:
        """Numbers of the chunks in the data set."""
        return torch.from_numpy(self._ids)

    @cached_property
    def source(self) -> Tensor:
        """Numbers of the sources."""
        return self._fact("source")

    @cached_property
    def doc_id(self) -> Tensor:
        """Documents that the chunks begin in."""
        return self._fact("doc_id")

    @cached_property
    def doc_offset(self) -> Tensor:
        """Tokens of that document before the chunk."""
        return self._fact("doc_offset")

    @cached_property
    def valid_len(self) -> Tensor:
        """Tokens of the row that are text; the rest is padding."""
        return self._fact("valid_len")

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """The columns that the loader was asked for."""
        return {name: torch.from_numpy(values[self._ids]) for name, values in self._columns.items()}

    @cached_property
    def _described(self) -> NDArray[np.int64]:
        return self._shards.describe(self._ids)

    def _fact(self, name: str) -> Tensor:
        return torch.from_numpy(self._described[_DESCRIBED.index(name)])

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("chunk_ids", *_DESCRIBED, "scores")}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.__getstate__().items())
        return f"BatchMeta({facts})"


class Batch(NamedTuple):
    """Rows of a data set: tokens [b, T], the token that follows each of them [b, T], and what is known about them."""

    tokens: Tensor
    targets: Tensor
    meta: BatchMeta


class Explanation(NamedTuple):
    """Where the rows of a global batch come from; arrays of one length, row by row."""

    step: int
    chunk_ids: NDArray[np.int64]
    epoch: NDArray[np.int64]
    """Of the row's source where sources are mixed, else of the data set; a paced order's is position over chunks."""
    position: NDArray[np.int64]
    """Within the epoch."""
    scores: dict[str, NDArray[np.float32]]
