"""nanoGPT's `.bin`: nothing but uint16 token ids, little-endian."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fluxcore.data.interchange.blocks import Block, Boundary, list_files, read_items, regular_size, split_streams
from fluxcore.data.interchange.blocks import Tokens as Tokens
from fluxcore.data.interchange.modded_nanogpt import HEADER_BYTES, VARIANTS
from fluxcore.errors import MalformedInputError


class NanogptFiles:
    """Files without a header; see `split_streams` for their documents.

    Raises:
        MalformedInputError: a file is empty or of an odd size, or has the header of modded-nanogpt.
    """

    def __init__(self, inputs: Sequence[Path], boundary: Boundary) -> None:
        self._boundary = boundary
        self._counts = {path: _count(path) for path in list_files(inputs, ".bin")}
        self.tokens = sum(self._counts.values())

    def blocks(self) -> Iterator[Block]:
        """All tokens in order."""
        return split_streams(self._runs(), self._boundary)

    def _runs(self) -> Iterator[tuple[Path, int, Tokens, bool]]:
        for path, count in self._counts.items():
            for position, tokens in read_items(path, "<u2", offset=0, count=count):
                yield path, position, tokens, position + len(tokens) == count


def _count(path: Path) -> int:
    size = regular_size(path)
    if size == 0 or size % 2:
        raise MalformedInputError(f"`{path}` must hold uint16 tokens, it has {size} bytes", path=path)
    with path.open("rb") as file:
        magic = int.from_bytes(file.read(4), "little")
    if magic in VARIANTS and size >= HEADER_BYTES:
        raise MalformedInputError(
            f'`{path}` begins with the header of modded-nanogpt, not with tokens\n\nUse format="modded-nanogpt".',
            path=path,
        )
    return size // 2
