"""Stages of a long job that are reused when nothing they depend on has changed."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcore.errors import DatasetLockedError

RECORDS = ".stages"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage went."""

    digest: str
    """Of all that the stage depends on; a stage that reads its output depends on this."""
    reused: bool
    seconds: float
    """Wall time of the run that made the output."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Keeps one record a stage below `folder`, so that a second run does only what the first has not done."""

    folder: Path

    def run(self, name: str, inputs: dict[str, Any], output: Path, action: Callable[[], None]) -> Outcome:
        """Run `action`, which writes `output`, unless it has been run to its end with the same inputs.

        Output of other inputs is deleted first. Output of the same inputs, left by an action that was killed, stays:
        the action goes on from it or replaces it.

        Args:
            name: a file name.
            inputs: what the output depends on, JSON values; digests of the stages that it reads among them.
            output: file or folder below `folder`.
            action: makes `output`.
        """
        digest = digest_of({"stage": name, **inputs})
        record = self._read(name)
        if record.get("digest") == digest and record.get("finished") and output.exists():
            return Outcome(digest, reused=True, seconds=float(record["seconds"]))
        if record.get("digest") != digest:
            delete(output)
        self._write(name, {"digest": digest, "finished": False, "inputs": inputs})
        start = time.monotonic()
        action()
        seconds = time.monotonic() - start
        self._write(name, {"digest": digest, "finished": True, "seconds": round(seconds, 3), "inputs": inputs})
        return Outcome(digest, reused=False, seconds=seconds)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads((self.folder / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}  # a torn record is no record: the stage runs again
        return record if isinstance(record, dict) else {}

    def _write(self, name: str, record: dict[str, Any]) -> None:
        path = self.folder / RECORDS / f"{name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)


@contextmanager
def open_stages(folder: Path) -> Iterator[Stages]:
    """Stages kept in `folder`, for this process alone.

    Raises:
        ValueError: `folder` holds something else; nothing in it is touched.
        DatasetLockedError: another process works in it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{folder}` must be a folder, but is a file\n\nGive another folder with --out.")
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORDS).is_dir():
        raise ValueError(
            f"`{folder}` must be new, empty, or left by an earlier run, but holds something else"
            "\n\nGive another folder with --out: stages would delete what is in their way."
        )
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    with (folder / RECORDS / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DatasetLockedError(
                f"`{folder}` is in use by process {lock.read().strip() or 'unknown'}"
                "\n\nWait until it ends, or give another folder with --out."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield Stages(folder)


def digest_of(inputs: dict[str, Any]) -> str:
    """Hash of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def delete(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
