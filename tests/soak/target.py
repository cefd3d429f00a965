"""One kind of attempt, made over and over with other numbers."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np


class FoundError(AssertionError):
    """Something that must never happen."""


class Target(ABC):
    """Attempts depend on their seed alone, so that each can be had again."""

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make, in an empty folder, what all attempts share."""

    @abstractmethod
    def attempt(self, rng: np.random.Generator) -> str:
        """One attempt; returns its outcome in a word.

        Raises:
            FoundError: it found something. Any other exception is a find too.
        """
