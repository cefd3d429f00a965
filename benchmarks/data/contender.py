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
    package: str | None = None
    """The module that it imports when it is first used."""
    writes_fast: bool = True
    """It can write hundreds of thousands of chunks in seconds."""

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

    def share(self, seed: int, state: object, rank: int, world: int) -> Iterator[Tensor]:
        """The rows of one rank, BATCH / world a batch, from the `state` of a single rank on, or from the beginning.

        The process is that rank of a group of torch.distributed already, where there is more than one.
        """
        raise CannotError("it knows no ranks")

    def start(self, folder: Path) -> Iterator[Tensor]:
        """Open what `write_sparse` wrote, and give its batches, shuffled."""
        raise CannotError("its files cannot be made sparse")

    def write_sparse(self, folder: Path, chunks: int) -> None:
        """Write `chunks` chunks of zeros, which take no room on the disk, into a folder that is not there yet."""
        raise CannotError("its files cannot be made sparse")


def as_long(tokens: object) -> Tensor:
    """Token ids as int64."""
    return torch.as_tensor(tokens).to(torch.int64)
