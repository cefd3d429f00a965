"""Open what must be a plain file, whatever somebody put in its place: a pipe, a device, a link out of the folder."""

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of the file `path`; no link is followed, no pipe waited for.

    Args:
        path: the file.
        flags: as of `os.open`.
        mode: of a file that is made.
    Raises:
        OSError: it cannot be opened, or is no regular file; the error names it.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(error.errno, "a symbolic link is not followed", str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, "not a regular file", str(path))
    return descriptor
