"""A folder that is there whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcore.data.lock import LOCK_NAME, WriterLock
from fluxcore.durable import sync

_MARK = ".identity"


@contextmanager
def published_folder(path: Path, identity: str | None = None) -> Iterator[Path]:
    """A folder under a temporary name, which becomes `path` when the block is left without an exception.

    Args:
        path: where it will stand.
        identity: of what goes in. What an interrupted run with the same left is still there, and an OSError or a
            KeyboardInterrupt leaves it; None: the folder is empty, and is taken away by any exception.
    Raises:
        FileExistsError: something stands at `path`.
        DatasetLockedError: another process is writing it.
        OSError: it cannot be written.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "something stands there already; write to another folder", str(path))
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    with WriterLock(temporary):
        mark = temporary / _MARK
        if identity is None or not mark.is_file() or mark.read_text() != identity:
            _empty(temporary)
            mark.write_text(identity or "")
        try:
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                sync(file)
            mark.unlink()
            (temporary / LOCK_NAME).unlink()
            temporary.rename(path)
        except BaseException as error:
            if identity is None or not isinstance(error, OSError | KeyboardInterrupt):
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync(path.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()
