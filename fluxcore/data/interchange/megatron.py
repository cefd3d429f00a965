"""The `.bin` and `.idx` of Megatron-LM and of DeepSpeed.

    "MMIDIDX\\0\\0" | u64 version, 1 | u8 dtype code | u64 sequences S | u64 D, documents + 1
    i32 tokens of each sequence [S] | i64 its byte in the .bin [S] | i64 first sequence of each document, and S [D]

Both write the same magic and version, and disagree on what the codes 6 to 8 stand for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.interchange.blocks import BLOCK_TOKENS, Block, Tokens, list_files, regular_size
from fluxcore.errors import MalformedInputError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER_BYTES = 34
# Code -> what Megatron-LM and what DeepSpeed mean by it.
_CODES: dict[int, tuple[str, ...]] = {
    1: ("uint8",),
    2: ("int8",),
    3: ("int16",),
    4: ("int32",),
    5: ("int64",),
    6: ("float64", "uint16"),
    7: ("float32", "uint32"),
    8: ("uint16", "uint64"),
}


@dataclass(frozen=True, slots=True)
class _Index:
    path: Path
    """The .bin."""
    dtype: str
    lengths: NDArray[np.int64]
    """Tokens of each sequence."""
    pointers: NDArray[np.int64]
    """Byte at which each begins."""
    documents: NDArray[np.int64]
    """Sequences before the end of each document."""


class MegatronFiles:
    """Pairs of .bin and .idx, given by either or by what they have in common, with the documents that they list.

    Args:
        inputs: files, or folders of them.
        token_dtype: of the tokens in the .bin, where the code and the lengths leave two; None: it must be clear.
    Raises:
        MalformedInputError: what an .idx says fits neither itself nor the .bin, or has two readings.
    """

    def __init__(self, inputs: Sequence[Path], token_dtype: str | None = None) -> None:
        pairs = dict.fromkeys(_without_suffix(path) for path in list_files(inputs, ".idx"))
        self._indices = [_read_index(stem, token_dtype) for stem in pairs]
        self.tokens = sum(int(index.lengths.sum()) for index in self._indices)

    def blocks(self) -> Iterator[Block]:
        """All tokens, document by document."""
        for index in self._indices:
            yield from _blocks_of(index)


def _without_suffix(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _read_index(stem: Path, token_dtype: str | None) -> _Index:
    path, tokens = _with_suffix(stem, ".idx"), _with_suffix(stem, ".bin")
    size, token_bytes = regular_size(path), regular_size(tokens)
    data = path.read_bytes()[:size]
    if len(data) < _HEADER_BYTES or data[:9] != _MAGIC:
        raise _malformed(path, f"it must begin with {_MAGIC!r} and {_HEADER_BYTES} bytes of header")
    version, code = int.from_bytes(data[9:17], "little"), data[17]
    if version != 1:
        raise _malformed(path, f"it must be of version 1, it is of {version}")
    sequences, bounds = (int.from_bytes(data[at : at + 8], "little") for at in (18, 26))
    if len(data) != _HEADER_BYTES + 12 * sequences + 8 * bounds:
        raise _malformed(
            path,
            f"{sequences} sequences and {bounds} bounds of documents take {_HEADER_BYTES + 12 * sequences + 8 * bounds}"
            f" bytes, it has {len(data)}; it was cut short, or holds more than text",
        )
    lengths = np.frombuffer(data, "<i4", sequences, _HEADER_BYTES).astype(np.int64)
    pointers = np.frombuffer(data, "<i8", sequences, _HEADER_BYTES + 4 * sequences)
    documents = np.frombuffer(data, "<i8", bounds, _HEADER_BYTES + 12 * sequences)
    if (lengths < 0).any():
        raise _malformed(path, f"sequence {int((lengths < 0).argmax())} has {lengths[lengths < 0][0]} tokens")
    if bounds == 0 or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise _malformed(path, f"its documents must begin with sequence 0, rise, and end with sequence {sequences}")
    dtype = _choose_dtype(path, code, int(lengths.sum()), token_bytes, token_dtype)
    beyond = (pointers < 0) | (pointers > token_bytes - lengths * np.dtype(dtype).itemsize)
    if beyond.any():
        at = int(beyond.argmax())
        raise _malformed(
            path, f"sequence {at}, {lengths[at]} tokens from byte {pointers[at]} on, is not within the .bin"
        )
    return _Index(tokens, dtype, lengths, pointers, documents[1:])


def _choose_dtype(path: Path, code: int, tokens: int, token_bytes: int, wanted: str | None) -> str:
    """The reading of a dtype code under which all tokens fill the .bin."""
    readings = _CODES.get(code)
    if readings is None:
        raise _malformed(path, f"its dtype code must be one of {', '.join(map(str, _CODES))}, it is {code}")
    fitting = [name for name in readings if np.dtype(name).itemsize * tokens == token_bytes]
    if not fitting:
        raise _malformed(path, f"its {tokens} tokens, as {' or '.join(readings)}, do not fill the {token_bytes} bytes")
    if wanted is not None:
        fitting = [name for name in fitting if name == wanted]
        if not fitting:
            raise _malformed(path, f"its tokens are {' or '.join(readings)}, not {wanted} (`token_dtype`)")
    if len(fitting) > 1:
        raise MalformedInputError(
            f"`{path}`: dtype code {code} is {fitting[0]} to Megatron-LM and {fitting[1]} to DeepSpeed, and both fit"
            f'\n\nIf the tokens are integers, say so: token_dtype="{fitting[1]}".',
            path=path,
        )
    if np.dtype(fitting[0]).kind == "f":
        raise _malformed(path, f"its tokens are {fitting[0]}; ids are integers")
    return fitting[0]


def _blocks_of(index: _Index) -> Iterator[Block]:
    width = np.dtype(index.dtype).itemsize
    before = np.concatenate([[0], np.cumsum(index.lengths)])  # tokens before each sequence
    jumps = np.flatnonzero(index.pointers[1:] != index.pointers[:-1] + index.lengths[:-1] * width) + 1
    start, closed = 0, 0
    with index.path.open("rb") as file:
        while start < len(index.lengths):
            stop = max(int(np.searchsorted(before, before[start] + BLOCK_TOKENS, side="right")) - 1, start + 1)
            nearest = np.searchsorted(jumps, start, side="right")
            stop = min([stop, *jumps[nearest : nearest + 1]])
            file.seek(index.pointers[start])
            wanted = int(before[stop] - before[start])
            tokens: Tokens = np.fromfile(file, np.dtype(index.dtype), wanted)
            if len(tokens) < wanted:
                raise _malformed(index.path, "it was cut short while it was read")
            until = int(np.searchsorted(index.documents, stop, side="right"))
            ends = before[index.documents[closed:until]] - before[start]
            yield Block(tokens, ends, index.path, int(index.pointers[start]) // width)
            start, closed = stop, until


def _malformed(path: Path, fault: str) -> MalformedInputError:
    return MalformedInputError(f"`{path}` is no sound index of tokens: {fault}", path=path)
