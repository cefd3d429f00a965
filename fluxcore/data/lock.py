"""One writer a folder."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from fluxcore.errors import DatasetLockedError

LOCK_NAME = ".fluxcore.lock"


class WriterLock:
    """Held while a folder is written to; the kernel frees it when the process ends, however it ends.

    The file stays: removing it would let a third writer lock another file of the same name.

    Args:
        folder: the folder.
        shared: keep out those that want it alone, and let others in that share it, each with a lock of its own for
            what it writes.
    Raises:
        DatasetLockedError: another writer holds it; the message names its process and host.
        OSError: the lock file cannot be opened.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._shared = shared
        path = folder / LOCK_NAME
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            self._take(folder)
        except BaseException:
            self.release()
            raise

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetLockedError(
                f"`{folder}` is being written to by {self._holder()}"
                "\n\nWait until it is done, or write to another folder."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._fd, 4096, 0))
            return f"process {int(holder['pid'])} on {str(holder['host'])!r}"
        except (ValueError, KeyError, TypeError):
            return "another process"  # which has the lock and has not yet signed it

    def release(self) -> None:
        """Let the next writer in. Doing it twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
