"""Which shards of a data set were found sound, in a file that the user names: a verification goes on behind them."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fluxcore import _core
from fluxcore.data.manifest import Manifest, ShardInfo
from fluxcore.durable import naming

_FORMAT = "fluxcore verify"


class VerifyState:
    """A line of JSON that tells the data set, and one a sound shard with sizes and times of its files.

    A shard whose files were changed since is not taken for sound, and nothing is that was found in another folder or
    under another manifest.

    Args:
        path: the file; made if it is not there.
        folder: of the data set.
        manifest: of the data set.
    Raises:
        ValueError: the file holds something else, which is left alone.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, folder: Path, manifest: Manifest) -> None:
        self._path, self._folder = path, folder
        self._sound: dict[str, Any] = {}
        head = {"format": _FORMAT, "version": 1, "folder": str(folder.resolve()), "manifest": manifest.hash}
        if self._first_line() != head:
            _core.publish_file(path, json.dumps(head).encode() + b"\n")
        self._file = path.open("r+b")
        self._read()

    def has(self, shard: ShardInfo) -> bool:
        """Whether it was found sound, and stands as it stood then."""
        return shard.name in self._sound and self._sound[shard.name] == self.stamp(shard)

    def stamp(self, shard: ShardInfo) -> list[list[Any]]:
        """Name, size, time and inode of its files, from before they are read."""
        found = []
        for name in (shard.name, *(sidecar.name for sidecar in shard.sidecars)):
            status = (self._folder / name).stat()
            found.append([name, status.st_size, status.st_mtime_ns, status.st_ino])
        return found

    def add(self, shard: ShardInfo, stamp: list[list[Any]]) -> None:
        """Keep that it is sound; on return that is on the disk."""
        with naming(self._path):
            self._file.write(json.dumps({"shard": shard.name, "files": stamp}).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Delete the file: all is sound, and the next verification is one of everything."""
        self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with naming(self._path):
            self._file.close()

    def _first_line(self) -> Any:
        """What the file tells of its data set; None where there is no file, or nothing in it."""
        if not self._path.exists() or self._path.stat().st_size == 0:
            return None
        with self._path.open("rb") as file:
            line = file.readline(1 << 16)
        try:
            head = json.loads(line)
        except ValueError:  # no text, or no JSON
            head = None
        if not isinstance(head, dict) or head.get("format") != _FORMAT:
            raise ValueError(
                f"`resume_from` must be a file that an earlier verification wrote, or none yet; `{self._path}` holds"
                " something else\n\nName another file."
            )
        return head

    def _read(self) -> None:
        """Take in the sound shards; a line that a kill cut short is cut off."""
        end = len(self._file.readline())
        while (line := self._file.readline()).endswith(b"\n"):
            entry = json.loads(line)
            self._sound[entry["shard"]] = entry["files"]
            end += len(line)
        self._file.seek(end)
        self._file.truncate()
