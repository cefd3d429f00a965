"""What a measure is given, and what it gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import corpus
from benchmarks.data.contender import BATCH, Contender

BATCH_TOKENS = BATCH * corpus.CHUNK_TOKENS


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where the files are, and for how long to measure."""

    root: Path
    """Holds, in a folder for each `Contender.files`, what the contenders wrote."""
    chunks: int
    sparse_chunks: int = 50_000_000
    """Of the set for start-up."""
    large_chunks: int = 524_288
    """Of the set that is larger than the memory it may take."""
    batches: int = 1_000_000
    """Over which memory may not grow."""
    seconds: float = 2.0
    """For a figure that is a rate."""

    def files(self, contender: Contender) -> Path:
        """Folder with what the contender wrote."""
        return self.root / contender.files.replace(" ", "-")

    @property
    def scratch(self) -> Path:
        """A folder that is not there, for what a measure writes; deleted after it."""
        return self.root / "scratch"


Figures = dict[str, Any]
"""`value`, a `note` for people, and what targets are held against."""
Outcome = tuple[Contender, str, Figures | None]
"""Whose; `ok` or why there are no figures; the figures."""
Contest = Callable[[Sequence[Contender], Work], Iterator[Outcome]]
"""Takes a measure of several contenders."""
