"""What a loader hands out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class BatchMeta(NamedTuple):
    """What is known about the rows of a batch; [b] int64 tensors, and float32 scores by name."""

    chunk_ids: Tensor
    source: Tensor
    doc_id: Tensor
    doc_offset: Tensor
    valid_len: Tensor
    """Tokens of the row that are text; the rest is padding."""
    scores: dict[str, Tensor]


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
