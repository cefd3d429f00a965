"""One writer a folder."""

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from fluxcore.data.regular_file import open_regular
from fluxcore.durable import naming
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
        self._owner = os.getpid()
        path = folder / LOCK_NAME
        self._fd = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            with naming(path):
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

    @property
    def is_ours(self) -> bool:
        """Whether this process took it, and not one that this one was forked from."""
        return os.getpid() == self._owner

    def check_process(self) -> None:
        """Check that this process may write.

        Raises:
            ValueError: it is a fork of the one that took the lock.
        """
        if not self.is_ours:
            raise ValueError(
                f"the writer is that of process {self._owner}, this is its fork {os.getpid()}"
                "\n\nWrite in the process that made the writer, or to another folder."
            )

    def release(self) -> None:
        """Let the next writer in. Doing it twice is harmless."""
        if self._fd < 0:
            return
        if self.is_ours:
            # Closing would leave it to a process that was forked meanwhile, and in which nobody writes.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
