"""The `.bin` of modded-nanogpt and llm.c: 256 int32 of header, then the token ids.

int32 magic | int32 version | int32 tokens | 253 int32, unused | tokens        little-endian
20240520 | 1: uint16 ids (GPT-2)         20240801 | 7: uint32 ids (Llama 3, llm.c alone)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcore.data.interchange.blocks import (
    Block,
    Boundary,
    Tokens,
    list_files,
    read_items,
    regular_size,
    split_streams,
)
from fluxcore.durable import naming, sync
from fluxcore.errors import MalformedInputError

HEADER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Variant:
    """What a magic number stands for."""

    version: int
    dtype: str


VARIANTS = {20240520: Variant(1, "<u2"), 20240801: Variant(7, "<u4")}
MAX_TOKENS = (1 << 31) - 1  # the header counts in int32


class ModdedNanogptFiles:
    """Files with a header; see `split_streams` for their documents.

    Raises:
        MalformedInputError: magic, version, count and size of a file do not fit together.
    """

    def __init__(self, inputs: Sequence[Path], boundary: Boundary) -> None:
        self._boundary = boundary
        self._heads = {path: _read_head(path) for path in list_files(inputs, ".bin")}
        self.tokens = sum(count for _, count in self._heads.values())

    def blocks(self) -> Iterator[Block]:
        """All tokens in order."""
        return split_streams(self._runs(), self._boundary)

    def _runs(self) -> Iterator[tuple[Path, int, Tokens, bool]]:
        for path, (variant, count) in self._heads.items():
            for position, tokens in read_items(path, variant.dtype, offset=HEADER_BYTES, count=count):
                yield path, position, tokens, position + len(tokens) == count


def _read_head(path: Path) -> tuple[Variant, int]:
    size = regular_size(path)
    if size < HEADER_BYTES:
        raise MalformedInputError(f"`{path}` must begin with {HEADER_BYTES} bytes of header, it has {size}", path=path)
    magic, version, count = (int(number) for number in np.fromfile(path, "<i4", 3))
    variant = VARIANTS.get(magic)
    if variant is None:
        raise MalformedInputError(
            f"`{path}` must begin with the number {' or '.join(map(str, VARIANTS))}, it begins with {magic}"
            '\n\nA file without a header is of format="nanogpt".',
            path=path,
        )
    if version != variant.version:
        raise MalformedInputError(f"`{path}` must be of version {variant.version}, it is of {version}", path=path)
    width = np.dtype(variant.dtype).itemsize
    if count < 0 or size != HEADER_BYTES + width * count:
        raise MalformedInputError(
            f"`{path}` must have {HEADER_BYTES} + {width} x {count} bytes, as its header says, it has {size}", path=path
        )
    return variant, count


def variant_of(vocab_size: int) -> tuple[int, Variant]:
    """Magic number and kind of the files for so many ids."""
    magic = 20240520 if vocab_size <= 1 << 16 else 20240801
    return magic, VARIANTS[magic]


def write_files(
    folder: Path, pieces: Iterator[Tokens], *, vocab_size: int, file_tokens: int, first: int = 0
) -> Iterator[int]:
    """Write a token stream to `tokens_000000.bin` and so on, of `file_tokens` each but the last.

    A file gets its header when it is full and on the disk: one with a header is whole. Yields the tokens done, after
    each piece.

    Args:
        folder: to write to.
        pieces: the stream from file `first` on, in pieces.
        vocab_size: up to 65536 ids make uint16 files, more make those of Llama 3.
        file_tokens: within [1, 2^31).
        first: files that are there already.
    """
    magic, variant = variant_of(vocab_size)
    number, held = first, 0
    for piece in pieces:
        tokens = piece.astype(variant.dtype)
        while len(tokens):
            part, tokens = np.split(tokens, [file_tokens - held])
            path = _file(folder, number)
            with naming(path), path.open("ab" if held else "wb") as file:
                if held == 0:
                    file.write(bytes(HEADER_BYTES))
                file.write(part.tobytes())
            held += len(part)
            if held == file_tokens:
                _finish(_file(folder, number), magic, held)
                number, held = number + 1, 0
        yield number * file_tokens + held
    if held:
        _finish(_file(folder, number), magic, held)


def count_full_files(folder: Path, *, vocab_size: int, file_tokens: int) -> int:
    """How many files, from the first on, an interrupted `write_files` of the same stream filled."""
    magic, variant = variant_of(vocab_size)
    size = HEADER_BYTES + file_tokens * np.dtype(variant.dtype).itemsize
    number = 0
    while (path := _file(folder, number)).is_file() and path.stat().st_size == size:
        if np.fromfile(path, "<i4", 3).tolist() != [magic, variant.version, file_tokens]:
            break
        number += 1
    return number


def _finish(path: Path, magic: int, count: int) -> None:
    sync(path)
    with path.open("r+b") as file:
        file.write(np.array([magic, VARIANTS[magic].version, count], "<i4").tobytes())


def _file(folder: Path, number: int) -> Path:
    return folder / f"tokens_{number:06d}.bin"
