"""What a loader hands out."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore.data.facts import FACTS


class BatchMeta:
    """What is known about the rows of a batch; [b] int64 tensors, and float32 scores by name.

    A tensor is made when it is first asked for: to make all of them takes a tenth of the time of a batch.
    """

    def __init__(
        self, facts: Callable[[], NDArray[np.int64]], columns: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        """`facts` gives [5, b], a row for each of `FACTS`; `columns` hold a score for every chunk."""
        self._facts = facts
        self._columns = columns or {}

    @cached_property
    def chunk_ids(self) -> Tensor:
        """Numbers of the chunks in the data set."""
        return self._fact("chunk_ids")

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
        ids = self.chunk_ids.numpy()
        return {name: torch.from_numpy(values[ids]) for name, values in self._columns.items()}

    def _fact(self, name: str) -> Tensor:
        return torch.from_numpy(self._facts()[FACTS.index(name)])

    def __getstate__(self) -> dict[str, Any]:
        own = self._facts().copy()
        return {"facts": own, "scores": {name: scores.numpy() for name, scores in self.scores.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(lambda: state["facts"])  # type: ignore[misc]
        self.__dict__["scores"] = {name: torch.from_numpy(values) for name, values in state["scores"].items()}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)}" for name in FACTS)
        return f"BatchMeta({facts}, scores={self.scores})"


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
