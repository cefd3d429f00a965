"""Take values out of a map of a file that somebody may cut meanwhile.

Behind the end of a file a map is a signal, SIGBUS, for whoever reads it in user space, and an error for the kernel. So
it is the kernel that copies here: into an anonymous file, piece by piece, and from there to memory.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array
from fluxcore.errors import CorruptShardError

_PIECE = 1 << 20  # bytes


def copy_mapped(view: Array, out: Array, path: Path) -> None:
    """Copy `view`, of a map of the file `path`, into `out`; both [n], contiguous and of one dtype.

    Raises:
        CorruptShardError: a part of the file is not there any more, or the disk failed.
        OSError: no anonymous file can be made.
    """
    step = _PIECE // view.itemsize
    with _anonymous_file() as between:
        for start in range(0, len(view), step):
            _copy(between, view[start : start + step], out[start : start + step], path)


def take_mapped(view: Array, rows: NDArray[np.uint64], path: Path) -> Array:
    """`view[rows]`, as `copy_mapped` copies; no more of the file is in memory at a time than a piece.

    Args:
        view: [n], contiguous, of a map of the file `path`.
        rows: [m], ascending, each below n.
    Raises:
        CorruptShardError, OSError: as `copy_mapped`.
    """
    step = _PIECE // view.itemsize
    taken, piece = np.empty(len(rows), view.dtype), np.empty(step, view.dtype)
    cuts = np.searchsorted(rows, np.arange(step, len(view) + step, step, dtype=np.uint64)).tolist()
    with _anonymous_file() as between:
        begin = 0
        for end in cuts:
            if end > begin:
                first, stop = int(rows[begin]), int(rows[end - 1]) + 1
                _copy(between, view[first:stop], piece[: stop - first], path)
                taken[begin:end] = piece[rows[begin:end] - np.uint64(first)]
            begin = end
    return taken


@contextmanager
def _anonymous_file() -> Iterator[int]:
    file = os.memfd_create("fluxcore")
    try:
        yield file
    finally:
        os.close(file)


def _copy(between: int, view: Array, out: Array, path: Path) -> None:
    data, done = view.data.cast("B"), 0
    try:
        while done < len(data):
            done += os.pwrite(between, data[done:], done)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        raise CorruptShardError(
            f"`{path}` is corrupt: it cannot be read: the file was cut after it was opened, or the disk failed",
            shard=path.name,
        ) from None
    os.preadv(between, [out.data.cast("B")], 0)
