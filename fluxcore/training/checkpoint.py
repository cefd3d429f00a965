"""Checkpoint folders that are either whole or not there.

`checkpoints/step-00000100/` is written under a temporary name, flushed to the disk and renamed. `checkpoint.json` in it
lists each file with size and SHA-256. `last` and `best` are links, there for people; resuming looks at the folders.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcore.durable import sync
from fluxcore.errors import CorruptCheckpointError

INDEX = "checkpoint.json"
FORMAT = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose files were checked."""

    path: Path
    step: int
    info: Mapping[str, Any]
    """What was given to `Checkpoints.save`."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Holds a folder a checkpoint, and the links `last` and `best`.
        keep_last: Newest ones that are kept; the best is kept besides.
    """

    def __init__(self, folder: Path, *, keep_last: int = 2) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def save(self, step: int, write: Callable[[Path], None], *, info: Mapping[str, Any], best: bool = False) -> Path:
        """Publish a checkpoint, and remove those no longer kept.

        Args:
            step: Optimizer steps done; an earlier checkpoint of the same step is replaced.
            write: Puts the files into the folder that it is given.
            info: JSON values to read back without opening the files.
            best: Also link it as `best`.
        Raises:
            OSError: the disk is full, or the folder cannot be written; what was there before stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".writing-{path.name}"
        self.remove_unfinished()
        temporary.mkdir()
        try:
            write(temporary)
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            index = {
                "format": FORMAT,
                "step": step,
                "files": {str(file.relative_to(temporary)): fingerprint(file) for file in files},
                "info": dict(info),
            }
            (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            for file in [*files, temporary / INDEX, *(f for f in temporary.rglob("*") if f.is_dir()), temporary]:
                sync(file)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if path.exists():
            path.rename(self.folder / f".writing-{path.name}-old")
        temporary.rename(path)
        self.link("last", path)
        if best:
            self.link("best", path)
        sync(self.folder)
        self.remove_unfinished()
        self.prune()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; a torn one is passed over with a warning. None where there is none.

        Raises:
            CorruptCheckpointError: there are checkpoints, and none is whole.
        """
        torn = None
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except CorruptCheckpointError as error:
                log.warning("%s", str(error).split("\n")[0])
                torn = error
        if torn is not None:
            raise torn
        return None

    def paths(self) -> list[Path]:
        """Folders of the checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def link(self, name: str, target: Path) -> None:
        """Point a link at a checkpoint, atomically."""
        temporary = self.folder / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(self.folder / name)

    def prune(self) -> None:
        """Remove all but the newest and the best."""
        best = self.folder / "best"
        kept = {*self.paths()[-self.keep_last :], self.folder / best.readlink() if best.is_symlink() else best}
        for path in self.paths():
            if path not in kept:
                shutil.rmtree(path)

    def remove_unfinished(self) -> None:
        """Remove what a killed process left."""
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its list.

    Raises:
        FileNotFoundError: `path` does not exist.
        CorruptCheckpointError: a file is missing, cut short or changed.
    """
    path = path.expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(2, "No such checkpoint", str(path))
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        step, files, info = index["step"], index["files"], index["info"]
    except FileNotFoundError as error:
        raise torn(path, f"has no {INDEX}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise torn(path, f"has an unreadable {INDEX}") from error
    if index["format"] != FORMAT:
        raise CorruptCheckpointError(
            f"checkpoint {path} has format {index['format']}, and this version reads {FORMAT}"
            "\n\nResume with the version of fluxcore that wrote it."
        )
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise torn(path, f"lacks {name}")
        if file.stat().st_size != expected["size"]:
            raise torn(path, f"has {file.stat().st_size} bytes of {name}, which had {expected['size']}")
        if fingerprint(file) != expected:
            raise torn(path, f"has changed bytes in {name}")
    return Checkpoint(path=path, step=step, info=info)


def torn(path: Path, what: str) -> CorruptCheckpointError:
    """The error for a checkpoint that is not whole."""
    return CorruptCheckpointError(
        f"checkpoint {path} {what}\n\nResume from an earlier one with resume=FOLDER, or remove it."
    )


def fingerprint(file: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256."""
    with file.open("rb") as opened:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
