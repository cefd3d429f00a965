"""Where a value stands among those of its own source: a curriculum by it takes easy and hard chunks of every source."""

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array

HIGHEST = (1 << 16) - 1
_SUFFIX = ".source_quantile"


def quantile_name(column: str) -> str:
    """The column that holds the quantiles of `column`."""
    return column + _SUFFIX


def is_quantile(column: str) -> bool:
    """Whether a column holds quantiles within sources, which other chunks beside those of its data set would change."""
    return column.endswith(_SUFFIX)


def source_quantiles(values: Array, sources: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Mid-rank quantile of each value among those of its source, [n], in steps of 1 / 65535, rounded to the nearest.

    Of n values of a source, l of them lower than this one and e equal to it (itself included), it is (l + e / 2) / n:
    equal values share theirs, and no source's values decide over another's.

    Args:
        values: [n], without NaN.
        sources: [n], number of the source of each.
    """
    order = np.lexsort((values, sources))
    values, sources = values[order], sources[order]
    source_starts = np.ones(len(order), bool)
    source_starts[1:] = sources[1:] != sources[:-1]
    tie_starts = source_starts.copy()
    tie_starts[1:] |= values[1:] != values[:-1]
    first, count = _runs(source_starts)
    first_equal, equal = _runs(tie_starts)
    twice = 2 * (first_equal - first) + equal
    quantiles = np.empty(len(order), np.uint16)
    quantiles[order] = (twice * HIGHEST + count) // (2 * count)
    return quantiles


def _runs(starts: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the run that each place is in: its first place, and its length."""
    firsts = np.flatnonzero(starts)
    run = np.cumsum(starts) - 1
    return firsts[run], np.diff(firsts, append=len(starts))[run]
