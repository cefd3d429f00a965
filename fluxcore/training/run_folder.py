"""The folder of a run: what was asked for, with what, and everything that came out."""

import json
import logging
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.logging import RichHandler

from fluxcore.training.config import ConfigFile
from fluxcore.training.progress import CONSOLE

PACKAGES = ("fluxcore", "torch", "triton", "numpy", "transformers", "accelerate", "tokenizers", "safetensors")
LOG_BYTES = 10 << 20
LOG_FILES = 3
FILE_ONLY = "file_only"
"""`extra={FILE_ONLY: True}` keeps a message off the terminal, where the error itself will be shown."""


class RunFolder:
    """`config.yaml`, `environment.json`, `metrics.jsonl`, `samples.jsonl`, `log.txt`, `checkpoints/`.

    Args:
        path: The folder. None: a new `outputs/NAME/DATE-TIME`.
        name: Name of the trainer.
    """

    def __init__(self, path: Path | None, name: str) -> None:
        self.path = path.expanduser() if path is not None else new_path(Path("outputs") / name)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.txt"

    def holds_a_run(self) -> bool:
        """Whether something was trained here: a run that failed at its start does not count."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or any(self.checkpoints.glob("step-*"))

    def create(self, config: ConfigFile) -> None:
        """Make the folder and write down the configuration, the versions and the commit."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        config.to_yaml(self.path / "config.yaml")
        text = json.dumps(environment(), indent=2)
        (self.path / "environment.json").write_text(text + "\n", encoding="utf-8")

    def open_log(self, level: str) -> list[logging.Handler]:
        """Send the package's log to `log.txt`, which rotates, and to the terminal; `close_log` undoes it."""
        file = RotatingFileHandler(self.log, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        terminal = RichHandler(console=CONSOLE, show_path=False)
        terminal.addFilter(lambda record: not hasattr(record, FILE_ONLY))
        handlers: list[logging.Handler] = [file, terminal]
        logger = logging.getLogger("fluxcore")
        logger.setLevel(level.upper())
        for handler in handlers:
            logger.addHandler(handler)
        return handlers


def close_log(handlers: list[logging.Handler]) -> None:
    """Undo `RunFolder.open_log`."""
    for handler in handlers:
        logging.getLogger("fluxcore").removeHandler(handler)
        handler.close()


def new_path(parent: Path) -> Path:
    """A folder named after the local time that does not exist yet."""
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path, n = parent / stamp, 1
    while path.exists():
        n += 1
        path = parent / f"{stamp}-{n}"
    return path


def environment() -> dict[str, Any]:
    """Versions, platform, command and commit."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
        "commit": commit(),
    }


def commit() -> str | None:
    """Commit of the working directory, with `-dirty` when tracked files differ from it; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() or None
