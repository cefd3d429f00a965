"""Where metrics go: always a JSON lines file, and TensorBoard and Weights & Biases on request."""

import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from dotenv import find_dotenv, load_dotenv

from fluxcore.errors import require
from fluxcore.training.config import ConfigError
from fluxcore.training.trainer_config import TrackerName, WandbMode


class Tracker(Protocol):
    """One place that metrics go to."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take a record with `step`, `split` and numbers."""

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text, such as a sample."""

    def flush(self) -> None:
        """Put what was logged where a crash of the machine leaves it."""

    def close(self) -> None:
        """Finish; nothing is logged after."""


class JsonLines:
    """A file of one JSON object a line. NaN and infinities, which JSON lacks, become null.

    Args:
        path: The file; lines of steps after `resume_step`, and a line cut short, are removed from it.
        resume_step: The run goes on after this step; 0 starts an empty file.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        kept = records(path, resume_step) if resume_step else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        temporary.replace(path)
        self.file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self.file.write(json.dumps(finite) + "\n")
        self.file.flush()

    def flush(self) -> None:
        """Write through to the disk."""
        os.fsync(self.file.fileno())


class RunFiles:
    """`metrics.jsonl` and `samples.jsonl` of a run folder."""

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self.metrics = JsonLines(folder / "metrics.jsonl", resume_step)
        self.samples = JsonLines(folder / "samples.jsonl", resume_step)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append to `metrics.jsonl`."""
        self.metrics.write(record)

    def text(self, step: int, name: str, text: str) -> None:
        """Append to `samples.jsonl`."""
        self.samples.write({"step": step, "prompt": name, "text": text})

    def flush(self) -> None:
        """Write both through to the disk."""
        self.metrics.flush()
        self.samples.flush()

    def close(self) -> None:
        """Close both."""
        self.flush()
        self.metrics.file.close()
        self.samples.file.close()


def records(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Records up to a step; the file may be missing, and its last line torn."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [record for record in map(json.loads, lines) if record["step"] <= last_step]


class TensorBoard:
    """Event files in `folder`; what an earlier attempt logged after `resume_step` is hidden."""

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        require("tensorboard", extra="train")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a scalar `SPLIT/NAME` for each number."""
        for name, value in numbers(record).items():
            self.writer.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text, its white space kept."""
        self.writer.add_text(f"sample/{name}", "    " + text.replace("\n", "\n    "), step)

    def flush(self) -> None:
        """Write the events out."""
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WeightsAndBiases:
    """A W&B run whose id is kept in the folder, so that a resumed run goes on in it.

    WANDB_API_KEY, WANDB_PROJECT and its other variables come from the environment, or from a `.env` of the working
    directory or a folder above it.

    Raises:
        ConfigError: W&B lacks an API key, or cannot be reached.
    """

    def __init__(self, folder: Path, *, project: str, mode: WandbMode | None, config: Mapping[str, Any]) -> None:
        load_dotenv(find_dotenv(usecwd=True))
        wandb = require("wandb", extra="train")
        id_file = folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", project),
                # Said here, because W&B reads its environment once a process and the `.env` may be another by now.
                mode=mode.name if mode is not None else os.environ.get("WANDB_MODE"),
                id=id_file.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(folder),
                name=os.environ.get("WANDB_NAME", folder.name),
                config=dict(config),
            )
        except wandb.errors.Error as error:
            raise ConfigError(
                f"W&B did not start: {error}\n\nSet wandb_mode=offline, or leave it out of trackers."
            ) from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Log `SPLIT/NAME` for each number."""
        self.run.log({f"{record['split']}/{name}": value for name, value in numbers(record).items()}, record["step"])

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text as a preformatted panel."""
        html = require("wandb", extra="train").Html
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        self.run.log({f"sample/{name}": html(f"<pre>{escaped}</pre>", inject=False)}, step)

    def flush(self) -> None:
        """W&B writes in the background by itself."""

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, without its step."""
    return {key: value for key, value in record.items() if key != "step" and isinstance(value, int | float)}


class Trackers:
    """The files of the run folder and the trackers named, as one; close it even when it could not be opened wholly."""

    def __init__(self) -> None:
        self.opened: list[Tracker] = []

    def open(
        self,
        folder: Path,
        names: Sequence[TrackerName],
        *,
        project: str,
        mode: WandbMode | None = None,
        config: Mapping[str, Any],
        resume_step: int,
    ) -> None:
        """Open each.

        Args:
            folder: The run folder.
            names: Trackers besides the files.
            project: Of W&B.
            mode: Of W&B; None for what the environment says.
            config: Shown by W&B.
            resume_step: The run goes on after this step; 0 for a new one.
        """
        self.opened.append(RunFiles(folder, resume_step))
        for name in names:
            if name is TrackerName.tensorboard:
                self.opened.append(TensorBoard(folder / "tensorboard", resume_step))
            else:
                self.opened.append(WeightsAndBiases(folder, project=project, mode=mode, config=config))

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass a record to each."""
        for tracker in self.opened:
            tracker.log(record)

    def text(self, step: int, name: str, text: str) -> None:
        """Pass a text to each."""
        for tracker in self.opened:
            tracker.text(step, name, text)

    def flush(self) -> None:
        """Flush each."""
        for tracker in self.opened:
            tracker.flush()

    def close(self) -> None:
        """Close each, the last opened first, also when closing one fails."""
        with ExitStack() as closing:
            for tracker in self.opened:
                closing.callback(tracker.close)
            self.opened = []
