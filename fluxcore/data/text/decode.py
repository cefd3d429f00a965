"""Bytes of a file to text, with an error that says where they are wrong."""

from enum import Enum
from pathlib import Path


class DecodeErrors(Enum):
    """What to do about bytes that are not UTF-8."""

    STRICT = "strict"
    """Raise."""
    REPLACE = "replace"
    """Put U+FFFD in their place."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"`errors` must be one of {', '.join(e.value for e in cls)}, got {value!r}")


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


def without_surrogates(text: str, where: str, errors: DecodeErrors) -> str:
    """`text`, as JSON's escapes gave it, without halves of a character, which no encoding has.

    Raises:
        ValueError: there is one, and `errors` is strict.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors is DecodeErrors.STRICT:
            raise ValueError(
                f"the text at {where} has half of a character, \\u{ord(text[error.start]):04x}, at {error.start}"
                '\n\nMend it, or pass errors="replace" to put U+FFFD in its place.'
            ) from error
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
