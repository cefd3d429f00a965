"""A folder that is there whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcore.data.lock import LOCK_NAME, WriterLock
from fluxcore.durable import naming, sync

_MARK = ".identity"


@contextmanager
def published_folder(path: Path, identity: str) -> Iterator[Path]:
    """A folder under a temporary name, which becomes `path` when the block is left without an exception.

    What an interrupted run left in it is still there, unless it was of another identity; but for files named .*.tmp,
    which it was writing. An OSError or a KeyboardInterrupt leaves it too, any other exception takes it away.

    Args:
        path: where it will stand.
        identity: of what goes in; a line of text.
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
        if not mark.is_file() or mark.read_text() != identity:
            _empty(temporary)
            with naming(mark):
                mark.write_text(identity)
        for left in temporary.glob(".*.tmp"):
            left.unlink()
        try:
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                sync(file)
            mark.unlink()
            (temporary / LOCK_NAME).unlink()
            temporary.rename(path)
        except BaseException as error:
            if not isinstance(error, OSError | KeyboardInterrupt):
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync(path.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()
