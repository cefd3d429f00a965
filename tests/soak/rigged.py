"""Targets that do find something, to see whether it is told."""

import os
import signal
from pathlib import Path

import numpy as np

from soak.target import FoundError, Target


class Rigged(Target):
    """Fails in the attempt with seed 12."""

    name = "rigged"

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def attempt(self, rng: np.random.Generator) -> str:
        """By its seed."""
        if rng.random() == np.random.default_rng(12).random():
            self.fail()
        return "fine"

    def fail(self) -> None:
        """As a find."""
        raise FoundError("the third one")


class Deadly(Rigged):
    """As a broken pointer does."""

    def fail(self) -> None:
        """Without a word."""
        os.kill(os.getpid(), signal.SIGSEGV)
