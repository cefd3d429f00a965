"""A folder that is there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcore.durable import sync


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """A folder under a temporary name, which becomes `path` when the block is left without an exception.

    Raises:
        FileExistsError: something stands at `path`.
        OSError: it cannot be written.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "something stands there already; write to another folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
