"""How long work tells its caller where it is; the library itself prints nothing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a piece of work is."""

    done: int
    """Units done, those of an earlier, killed run included: bytes of text, or chunks."""
    total: int | None
    """Units in all; None where only the end will tell."""
    tokens: int
    """Tokens worked on by this run, for its speed."""


ProgressCallback = Callable[[Progress], None]
