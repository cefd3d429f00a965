"""What a corpus is: documents in a fixed order, each with its source and name."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text that chunks never cross."""

    text: str
    source: str
    """One of the corpus's `sources`."""
    name: str
    """What a person finds it by: a path, a path and line, a topic."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but white space in it."""
        return not self.text or self.text.isspace()


class Corpus(ABC):
    """Documents in a fixed order, read anew by each iteration."""

    sources: tuple[str, ...]
    """Every source that a document may have, in the order of their ids."""
    size_bytes: int | None = None
    """About how many bytes of text there are, for a progress bar; None where only reading would tell."""

    @property
    def identity(self) -> str | None:
        """Tells this corpus from every other, and from itself once its text has changed; None where only reading would.

        Of files it goes by paths, sizes and times. Work on a corpus that has one can go on where it was cut off.
        """
        return None

    @abstractmethod
    def __iter__(self) -> Iterator[Document]:
        """The documents, in the same order each time."""


def digest(*facts: object) -> str:
    """A short text that follows from plain values, such as those that make up an identity."""
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
