"""Tokens as importers hand them over: runs of a stream, with the places where documents end."""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import MalformedInputError

BLOCK_TOKENS = 4 << 20

Tokens = NDArray[np.integer[Any]]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens that follow those of the block before."""

    tokens: Tokens
    ends: Positions
    """Ascending positions within `tokens` before which a document ends; what is behind the last one goes on."""
    path: Path
    """File that they are from."""
    position: int
    """Of the first one among the tokens of that file."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The token that stands at the end of each document, or at its start; None where a file is one document."""

    token: int | None
    at_start: bool

    def ends(self, tokens: Tokens, *, first: bool) -> Positions:
        """Where documents end in `tokens`; `first`: nothing came before them."""
        if self.token is None:
            return np.empty(0, np.int64)
        found = np.flatnonzero(tokens == self.token)
        if not self.at_start:
            return found + 1
        return found[found > 0] if first else found


def split_streams(runs: Iterator[tuple[Path, int, Tokens, bool]], boundary: Boundary) -> Iterator[Block]:
    """Blocks of token streams that say nothing of documents.

    A document goes on from file to file until its boundary; without one, each file is a document.

    Args:
        runs: file, position of the first token in it, tokens, and whether they are its last ones.
    """
    first = True
    for path, position, tokens, last in runs:
        ends = boundary.ends(tokens, first=first)
        if boundary.token is None and last:
            ends = np.array([len(tokens)], np.int64)
        yield Block(tokens, ends, path, position)
        first = False


def check_ids(block: Block, vocab_size: int) -> None:
    """Refuse ids that are not in the vocabulary.

    Raises:
        MalformedInputError: names the file, the token's place in it and its value.
    """
    tokens = block.tokens
    for index in () if tokens.size == 0 else (int(tokens.argmin()), int(tokens.argmax())):
        if not 0 <= int(tokens[index]) < vocab_size:
            raise MalformedInputError(
                f"`{block.path}`: token {block.position + index} is {tokens[index]},"
                f" not within the vocabulary of {vocab_size}"
                "\n\nGive the size of the tokenizer's whole vocabulary, added tokens included, as `vocab_size`; if it"
                " is right, the file is of another format or tokenizer.",
                path=block.path,
            )


def regular_size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        MalformedInputError: it is a folder, a pipe or the like.
        OSError: it is not there, or cannot be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MalformedInputError(f"`{path}` must be a regular file", path=path)
    return status.st_size


def read_items(path: Path, dtype: str, *, offset: int, count: int) -> Iterator[tuple[int, Tokens]]:
    """Numbers of a file, from a byte on, in blocks; each with the place of its first one. At least one block.

    Read, not mapped: a map of a file that somebody cuts short ends the process.

    Raises:
        MalformedInputError: the file ends before them.
    """
    with path.open("rb") as file:
        file.seek(offset)
        done = 0
        while done < count or done == 0:
            wanted = min(BLOCK_TOKENS, count - done)
            items = np.fromfile(file, np.dtype(dtype), wanted)
            if len(items) < wanted:
                raise MalformedInputError(f"`{path}` was cut short while it was read", path=path)
            yield done, items
            done += wanted
            if count == 0:
                return


def list_files(inputs: Sequence[Path], suffix: str) -> list[Path]:
    """The files, and those of the folders with this suffix in the order of their names.

    Raises:
        MalformedInputError: a folder has none.
    """
    files: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(path.glob(f"*{suffix}"))
        if not found:
            raise MalformedInputError(f"`{path}` must hold files *{suffix}, it has none", path=path)
        files += found
    return files
