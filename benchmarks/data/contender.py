"""What a loader has to do to take part."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

BATCH = 32


class CannotError(Exception):
    """The loader has no such ability; the message says why."""


class Contender(ABC):
    """One loader with one set of options. `open` is called before anything but `write`."""

    name: str
    files: str
    """Contenders with the same word read the same files."""

    @abstractmethod
    def write(self, folder: Path, chunks: int) -> None:
        """Write the corpus.

        Raises:
            ImportError: the package is not installed.
        """

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Open what `write` wrote."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Tensor]:
        """One epoch, shuffled: int64 [BATCH, T], by one process, ready for a model."""

    @abstractmethod
    def item(self, index: int) -> object:
        """One chunk in the form in which the loader gives it."""

    def state(self, seed: int, step: int) -> object:
        """What a checkpoint keeps before batch `step` of the epoch; not timed."""
        return seed, step

    def resume(self, state: object) -> Iterator[Tensor]:
        """The epoch from there on, by the loader's own means; without any, what lies before is read and dropped."""
        seed, step = state
        batches = self.batches(seed)
        for _ in range(step):
            next(batches)
        return batches

    def start(self, folder: Path) -> Iterator[Tensor]:
        """Open what `write_sparse` wrote, and give its batches, shuffled."""
        raise CannotError("its files cannot be made sparse")

    def write_sparse(self, folder: Path, chunks: int) -> None:
        """Write `chunks` chunks of zeros, which take no room on the disk, into a folder that is not there yet."""
        raise CannotError("its files cannot be made sparse")


def as_long(tokens: object) -> Tensor:
    """Token ids as int64."""
    return torch.as_tensor(tokens).to(torch.int64)
