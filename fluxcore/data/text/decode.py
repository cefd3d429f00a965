"""Bytes of a file to text, with an error that says where they are wrong."""

from enum import Enum
from pathlib import Path


class DecodeErrors(Enum):
    """What to do about bytes that are not UTF-8."""

    STRICT = "strict"
    """Raise."""
    REPLACE = "replace"
    """Put U+FFFD in their place."""


def decode(data: bytes, path: Path, errors: DecodeErrors = DecodeErrors.STRICT, *, base: int = 0) -> str:
    """`data`, which begins at byte `base` of the file at `path`, as text, without a byte order mark.

    Raises:
        ValueError: not UTF-8, and `errors` is strict.
    """
    try:
        return data.decode("utf-8", errors.value).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        wrong = data[error.start : error.end].hex(" ")
        raise ValueError(
            f"`{path}` must be UTF-8, got the bytes {wrong} at byte {base + error.start}"
            '\n\nConvert the file, or pass errors="replace" to put U+FFFD in their place.'
        ) from error
