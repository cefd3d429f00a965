"""A file that a library writes wherever it likes, and that a kill takes back to its last checkpoint at most.

What comes behind the end at the last checkpoint goes straight to the disk. What would change bytes before it is held in
memory, page by page, until the next checkpoint, which writes these pages to a journal, durably, and only then to their
places. At any time the file and its journal therefore give the bytes of the last checkpoint.
"""

import io
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fluxcore import _core
from fluxcore.durable import naming

_PAGE = 4096


class CheckpointedFile(io.RawIOBase):
    """Opened anew it is as it was at the last checkpoint, or empty.

    A write that fails raises nothing, because HDF5 cannot bear that while it closes a file: from then on all is held in
    memory, and `check` raises what happened.

    Args:
        path: made if it is not there. The journal lies beside it.
    Raises:
        OSError: it cannot be opened or written; names `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: int | None = None
        """What the last checkpoint was given; None before the first one."""
        self._journal = path.with_name(f".{path.name}.journal")
        self._pages: dict[int, bytearray] = {}
        self._error: BaseException | None = None
        self._place = self._size = self._kept = 0  # `_kept`: bytes that the last checkpoint covers
        with naming(self.path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._recover()

    def checkpoint(self, done: int) -> None:
        """Make all that was written outlast a kill and a crash of the machine.

        Args:
            done: told to whoever goes on, as the attribute `done`.
        Raises:
            OSError: it could not be written; the last checkpoint stands.
        """
        self.check()
        with naming(self.path):
            os.fsync(self._fd)  # what is behind the last checkpoint, and the pages that its journal held
            if (beyond := self._kept % _PAGE) and (page := self._pages.get(self._kept // _PAGE)):
                behind = os.pread(self._fd, _PAGE - beyond, self._kept)
                page[beyond : beyond + len(behind)] = behind
            head = {"done": done, "size": self._size, "pages": list(self._pages)}
            journal = json.dumps(head).encode() + b"\n" + b"".join(self._pages.values())
            _core.publish_file(self._journal, b"%08x\n" % zlib.crc32(journal) + journal)
            self._apply()
        self.done, self._kept = done, self._size

    def finish(self) -> None:
        """Drop the journal: the file is as it should be."""
        self.check()
        with naming(self.path):
            os.fsync(self._fd)
            self._journal.unlink()

    def check(self) -> None:
        """Raise what a write met; nothing is written after it.

        Raises:
            OSError: names `path`.
            KeyboardInterrupt: it came in the middle of a write.
        """
        if self._error is not None:
            raise self._error

    def readable(self) -> bool:
        """As it says."""
        return True

    def writable(self) -> bool:
        """As it says."""
        return True

    def seekable(self) -> bool:
        """As it says."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; returns the new place."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read what was written; zeros behind the end."""
        view = memoryview(buffer).cast("B")
        found = b""
        with self._diverted():
            found = os.pread(self._fd, len(view), self._place)
        view[:] = found.ljust(len(view), b"\0")
        for number, inside, part in self._parts(self._place, min(self._place + len(view), self._kept)):
            if number in self._pages:
                start = number * _PAGE + inside.start - self._place
                view[start : start + part] = self._pages[number][inside]
        self._place += len(view)
        return len(view)

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write all of it, to the disk or to memory."""
        view = memoryview(data).cast("B")
        end = self._place + len(view)
        direct = max(self._place, self._kept)
        with self._diverted():
            if direct < end:
                self._put(view[direct - self._place :], direct)
        for number, inside, part in self._parts(self._place, min(end, self._kept)):
            start = number * _PAGE + inside.start - self._place
            self._page(number)[inside] = view[start : start + part]
        self._size, self._place = max(self._size, end), end
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size. HDF5 does so last of all, hence nothing is forgotten of what is cut off and grows again."""
        self._size = self._place if size is None else size
        with self._diverted():
            if self._size >= self._kept:
                os.ftruncate(self._fd, self._size)
        return self._size

    def close(self) -> None:
        """Close it, as it is: without a checkpoint what came since the last one is lost."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _recover(self) -> None:
        head, pages = self._read_journal()
        if os.fstat(self._fd).st_size < head["size"]:
            head = {"done": None, "size": 0}
        if head["done"] is None:
            os.ftruncate(self._fd, 0)
            return
        self._pages = pages
        self.done, self._size = head["done"], head["size"]
        self._apply()
        self._kept = self._size

    def _read_journal(self) -> tuple[dict[str, Any], dict[int, bytearray]]:
        """What the last checkpoint wrote; of nothing where there is none, or not as it was written."""
        nothing: dict[str, Any] = {"done": None, "size": 0}
        if not self._journal.is_file():
            return nothing, {}
        check, _, journal = self._journal.read_bytes().partition(b"\n")
        if check != b"%08x" % zlib.crc32(journal):
            return nothing, {}
        line, _, payload = journal.partition(b"\n")
        head = json.loads(line)
        places = range(0, len(payload), _PAGE)
        return head, {n: bytearray(payload[at : at + _PAGE]) for n, at in zip(head["pages"], places, strict=True)}

    def _apply(self) -> None:
        """Bring the pages that are held in memory to their places."""
        for number, page in self._pages.items():
            self._put(page[: max(self._size - number * _PAGE, 0)], number * _PAGE)
        os.ftruncate(self._fd, self._size)
        self._pages = {}

    def _put(self, data: bytearray | memoryview, place: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, place)
            view, place = view[count:], place + count

    def _page(self, number: int) -> bytearray:
        """The page as it is held in memory, brought there if need be."""
        if number not in self._pages:
            found = b""
            with self._diverted():
                found = os.pread(self._fd, _PAGE, number * _PAGE)
            self._pages[number] = bytearray(found.ljust(_PAGE, b"\0"))
        return self._pages[number]

    @staticmethod
    def _parts(start: int, stop: int) -> Iterator[tuple[int, slice, int]]:
        """Pages between two places: number, the bytes of it that are meant, and how many."""
        while start < stop:
            number, inside = divmod(start, _PAGE)
            size = min(_PAGE - inside, stop - start)
            yield number, slice(inside, inside + size), size
            start += size

    @contextmanager
    def _diverted(self) -> Iterator[None]:
        try:
            with naming(self.path):
                yield
        except (OSError, KeyboardInterrupt) as error:
            self._error = self._error or error
            self._kept = sys.maxsize
