"""Documents from the user's own files: plain text, JSON Lines, Parquet, and folders of them."""

import json
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from fluxcore.data.text.corpus import Corpus, Document, digest
from fluxcore.data.text.decode import DecodeErrors, decode, without_surrogates
from fluxcore.errors import require

# fmt: off
TEXT_SUFFIXES = frozenset({
    ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc", ".html", ".htm", ".xml", ".log",
    ".csv", ".tsv", ".json", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".ipynb", ".css", ".sql", ".proto", ".cmake",
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".cs", ".go", ".rs", ".java", ".kt",
    ".scala", ".swift", ".js", ".jsx", ".ts", ".tsx", ".rb", ".php", ".pl", ".r", ".jl", ".lua", ".hs", ".ml", ".ex",
    ".erl", ".clj", ".lisp", ".sh", ".bash", ".zsh", ".bat", ".ps1",
})
# fmt: on
"""A file with one of these is one document."""
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson"})
"""A file with one of these is a document a line."""
PARQUET_SUFFIXES = frozenset({".parquet"})
"""A file with one of these is a document a row."""


def files(
    paths: Iterable[str | PathLike[str]] | str | PathLike[str],
    *,
    column: str = "text",
    errors: DecodeErrors | str = DecodeErrors.STRICT,
) -> Corpus:
    """Documents from files and folders, in the order given; each path is a source of its own.

    A text file is one document; a JSON Lines file has one a line and a Parquet file one a row, in `column`. In a folder
    every file below it whose suffix says that it is text is taken, sorted by path; other files (see the result's
    `ignored`), hidden ones and empty ones are not. A file given by name may also have no suffix.

    Args:
        paths: files and folders.
        column: field of JSON Lines and column of Parquet that holds the text. A null counts as an empty document.
        errors: "strict", or "replace" to put U+FFFD in the place of bytes that are not UTF-8.
    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a given file is empty or has an unknown suffix, a folder has no text, bytes are not UTF-8, a line is
            not JSON, or the column is missing or not text. What is inside of files is seen when they are read.
    """
    given = [Path(paths)] if isinstance(paths, str | PathLike) else [Path(path) for path in paths]
    if not given:
        raise ValueError("`paths` must name at least one file or folder, got none")
    return _Files(given, column, DecodeErrors(errors))


class _Files(Corpus):
    def __init__(self, given: list[Path], column: str, errors: DecodeErrors) -> None:
        self.ignored: list[Path] = []
        """Files in the folders whose suffix says nothing of text."""
        self._column, self._errors = column, errors
        self._paths: list[tuple[str, Path, str]] = []  # source, path, name
        self.sources = tuple(_labels(given))
        for source, path in zip(self.sources, given, strict=True):
            self._paths += [(source, found, name) for found, name in self._find(path)]
        if not any(path.suffix.lower() in PARQUET_SUFFIXES for _, path, _ in self._paths):  # these are compressed
            self.size_bytes = sum(path.stat().st_size for _, path, _ in self._paths)

    @property
    def identity(self) -> str:
        """By path, size and time of each file."""
        seen = [(source, name, str(path.absolute()), path.stat()) for source, path, name in self._paths]
        facts = [(*names, status.st_size, status.st_mtime_ns) for *names, status in seen]
        return digest("files", self._column, self._errors.value, self.sources, facts)

    def _find(self, path: Path) -> Iterator[tuple[Path, str]]:
        if not path.exists():
            raise FileNotFoundError(f"`{path}` does not exist\n\nGive a file or a folder of text.")
        if not path.is_dir():
            _check_file(path)
            yield path, path.name
            return
        count = 0
        for found in sorted(path.rglob("*")):
            inside = found.relative_to(path)
            if not found.is_file() or any(part.startswith(".") for part in inside.parts):
                continue
            if found.suffix.lower() not in TEXT_SUFFIXES | JSONL_SUFFIXES | PARQUET_SUFFIXES:
                self.ignored.append(found)
            elif found.stat().st_size:
                count += 1
                yield found, f"{path.name}/{inside.as_posix()}"
        if count == 0:
            raise ValueError(f"`{path}` has no text in it\n\nFiles are taken by their suffix: {_known_suffixes()}")

    def __iter__(self) -> Iterator[Document]:
        for source, path, name in self._paths:
            suffix = path.suffix.lower()
            if suffix in JSONL_SUFFIXES:
                yield from self._jsonl(source, path, name)
            elif suffix in PARQUET_SUFFIXES:
                yield from self._parquet(source, path, name)
            else:
                yield Document(decode(path.read_bytes(), path, self._errors), source, name)

    def _jsonl(self, source: str, path: Path, name: str) -> Iterator[Document]:
        base = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = _parse(decode(line, path, self._errors, base=base), path, number)
                    if self._column not in row:
                        raise _no_column(f"line {number} of `{path}`", self._column, row)
                    text = _text(row[self._column], path, f"line {number}")
                    if b"\\u" in line:
                        text = without_surrogates(text, f"line {number} of `{path}`", self._errors)
                    yield Document(text, source, f"{name}:{number}")
                base += len(line)

    def _parquet(self, source: str, path: Path, name: str) -> Iterator[Document]:
        parquet = require("pyarrow.parquet", extra="train")
        arrow = require("pyarrow", extra="train")
        try:
            file = parquet.ParquetFile(path)
        except arrow.ArrowInvalid as error:
            raise ValueError(f"`{path}` must be a Parquet file: {error}") from error
        with file:
            if self._column not in file.schema_arrow.names:
                raise _no_column(f"`{path}`", self._column, file.schema_arrow.names)
            row = 0
            for batch in file.iter_batches(columns=[self._column]):
                for value in batch.column(0).to_pylist():
                    yield Document(_text(value, path, f"row {row}"), source, f"{name}:{row}")
                    row += 1


def _labels(paths: list[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell it from the others."""
    resolved = [path.resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ValueError(f"`{paths[index]}` is given twice")
    depth = 1
    while True:
        labels = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(labels)) == len(labels):
            return labels
        depth += 1


def _check_file(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix and suffix not in TEXT_SUFFIXES | JSONL_SUFFIXES | PARQUET_SUFFIXES:
        raise ValueError(
            f"`{path}` has the suffix {suffix!r}, which is not known as text\n\nKnown are: {_known_suffixes()}"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"`{path}` is empty\n\nGive a file with text in it, or leave it out.")


def _known_suffixes() -> str:
    return " ".join(sorted(TEXT_SUFFIXES | JSONL_SUFFIXES | PARQUET_SUFFIXES))


def _parse(line: str, path: Path, number: int) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} of `{path}` must be JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} of `{path}` must be a JSON object, got {type(row).__name__}")  # noqa: TRY004
    return row


def _text(value: object, path: Path, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"the text at {where} of `{path}` must be a string, got {type(value).__name__}")  # noqa: TRY004
    return value


def _no_column(where: str, column: str, columns: Iterable[str]) -> ValueError:
    return ValueError(f"{where} has no column {column!r}\n\nPass `column`; there are: {', '.join(columns)}")
