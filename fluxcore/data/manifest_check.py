"""The rules that a manifest's JSON must keep; docs/shard_format.md states them."""

import re
from collections.abc import Callable
from typing import Any

from fluxcore import _core

FORMAT = "fluxcore-dataset"
VERSION = 1
MAX_MANIFEST_BYTES = 256 << 20
MAX_SHARDS = 1 << 20
MAX_COLUMNS = 256
MAX_SHARD_COLUMNS = 124
MAX_SOURCES = 1 << 16
MAX_NAME_BYTES = 128
MAX_DEFINITION = 1 << 16
TOKEN_DTYPES = ("uint8", "uint16", "uint32")
COLUMN_DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32")
STANDARD_COLUMNS = {
    "source": "uint16",
    "doc_id": "uint64",
    "doc_offset": "uint32",
    "next_token": "uint32",
    "original_index": "uint64",
    "valid_len": "uint32",
}
"""Columns that every data set has, with their types."""


Check = Callable[[Any, str], None]


class FieldError(Exception):
    """A value in the manifest breaks a rule; the message names it."""


class UnsupportedVersionError(Exception):
    """The manifest is of a version that this fluxcore does not know."""


def need(holds: bool, where: str, must: str, value: object) -> None:
    """Raise FieldError unless `holds`."""
    if not holds:
        raise FieldError(f"`{where}` must be {must}, got {str(value)[:80]!r}")


def integer(low: int, high: int) -> Check:
    """An integer within [low, high]."""

    def check(value: Any, where: str) -> None:
        need(type(value) is int and low <= value <= high, where, f"an integer within [{low}, {high}]", value)

    return check


def string(pattern: str, must: str) -> Check:
    """A string that `pattern` matches wholly."""
    compiled = re.compile(pattern)

    def check(value: Any, where: str) -> None:
        need(type(value) is str and compiled.fullmatch(value) is not None, where, must, value)

    return check


def optional(inner: Check) -> Check:
    """Null, or what `inner` allows."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def array(inner: Check, *, least: int = 0, most: int) -> Check:
    """A list of what `inner` allows."""

    def check(value: Any, where: str) -> None:
        need(type(value) is list, where, "a list", type(value).__name__)
        need(least <= len(value) <= most, where, f"a list of {least} to {most} items", len(value))
        for index, item in enumerate(value):
            inner(item, f"{where}[{index}]")

    return check


def mapping(key: Check, inner: Check, *, most: int) -> Check:
    """An object whose keys and values `key` and `inner` allow."""

    def check(value: Any, where: str) -> None:
        need(type(value) is dict, where, "an object", type(value).__name__)
        need(len(value) <= most, where, f"an object of at most {most} entries", len(value))
        for name, item in value.items():
            key(name, f"{where}, key")
            inner(item, f"{where}.{name}")

    return check


def record(**fields: Check) -> Check:
    """An object with exactly these keys."""

    def check(value: Any, where: str) -> None:
        need(type(value) is dict, where, "an object", type(value).__name__)
        need(value.keys() == fields.keys(), where, f"an object with the keys {sorted(fields)}", sorted(value))
        for name, inner in fields.items():
            inner(value[name], f"{where}.{name}")

    return check


def boolean(value: Any, where: str) -> None:
    """True or false."""
    need(type(value) is bool, where, "true or false", value)


def number(value: Any, where: str) -> None:
    """A finite number; JSON as we read it has no others, except that its text may overflow a float."""
    need(type(value) is float and abs(value) != float("inf"), where, "a finite number with a decimal point", value)


def fault_of_definition(definition: Any) -> str:
    """Why this cannot be a column's definition, or an empty string."""
    holds = type(definition) is str and len(definition) <= MAX_DEFINITION
    return "" if holds else f"must be a text of at most {MAX_DEFINITION} characters, got {str(definition)[:80]!r}"


def fault_of_source_name(name: Any) -> str:
    """Why `name` cannot name a source, or an empty string."""
    if type(name) is not str:
        return "it is no text"
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES:
        return f"it must have 1 to {MAX_NAME_BYTES} bytes"
    return "" if name.isprintable() else "it holds a character that cannot be printed"


def source_name(value: Any, where: str) -> None:
    """A printable name of at most MAX_NAME_BYTES."""
    fault = fault_of_source_name(value)
    need(not fault, where, "the name of a source", value)


def column_name(value: Any, where: str) -> None:
    """A name that the shard format allows for a column."""
    fault = _core.fault_of_column_name(value) if type(value) is str else "it is no text"
    need(not fault, where, "the name of a column", value)


def _one_of(values: tuple[str, ...]) -> Check:
    return string("|".join(values), "one of " + ", ".join(values))


# A plain file of the folder: no separator, no leading dot, so that no listed name climbs out.
FILE_NAME = string(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}", "the name of a file within the folder")
HASH = string(r"[0-9a-f]{32}", "32 hexadecimal digits")
FILE_BYTES = integer(1, 1 << 40)
TEXT = string(rf"(?s).{{0,{MAX_DEFINITION}}}", f"a text of at most {MAX_DEFINITION} characters")
SIDECAR = record(name=FILE_NAME, bytes=FILE_BYTES, root=HASH, columns=array(column_name, least=1, most=MAX_COLUMNS))
SHARD = record(
    name=FILE_NAME,
    bytes=FILE_BYTES,
    chunks=integer(1, 1 << 40),
    base=integer(0, 1 << 62),
    root=HASH,
    first_key=optional(number),
    last_key=optional(number),
    quantiles=mapping(column_name, array(number, least=5, most=5), most=MAX_COLUMNS),
    sidecars=array(SIDECAR, most=MAX_COLUMNS),
)
DOCUMENT = record(
    format=string(re.escape(FORMAT), FORMAT),
    version=integer(VERSION, VERSION),
    generation=integer(1, 1 << 53),
    uuid=HASH,
    chunk_tokens=integer(1, 1 << 24),
    dtype=_one_of(TOKEN_DTYPES),
    vocab_size=integer(1, (1 << 32) - 1),
    tokenizer=optional(HASH),
    token_mask=boolean,
    sources=array(source_name, least=1, most=MAX_SOURCES),
    columns=mapping(column_name, record(dtype=_one_of(COLUMN_DTYPES), definition=TEXT), most=MAX_COLUMNS),
    sorted_by=optional(record(column=column_name, descending=boolean)),
    parent=optional(HASH),
    shards=array(SHARD, most=MAX_SHARDS),
)


def check_document(document: Any) -> None:
    """Check a parsed manifest: each field for itself, then how they fit together.

    Raises:
        FieldError: a rule is broken.
        UnsupportedVersionError: the version is another one.
    """
    need(type(document) is dict and document.get("format") == FORMAT, "format", FORMAT, document)
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise UnsupportedVersionError(f"the manifest has version {version}, this fluxcore reads {VERSION}")
    DOCUMENT(document, "manifest")
    columns, sources = document["columns"], document["sources"]
    need(not columns.keys() & STANDARD_COLUMNS.keys(), "columns", "names other than the standard ones", sorted(columns))
    need(len(columns) + len(STANDARD_COLUMNS) <= MAX_COLUMNS, "columns", f"at most {MAX_COLUMNS} in all", len(columns))
    need(len(set(sources)) == len(sources), "sources", "distinct names", sources)
    vocabulary = 1 << {"uint8": 8, "uint16": 16, "uint32": 32}[document["dtype"]]
    need(document["vocab_size"] <= vocabulary, "vocab_size", f"at most {vocabulary}", document["vocab_size"])
    sorted_by = document["sorted_by"]
    need(sorted_by is None or sorted_by["column"] in columns, "sorted_by", "one of the columns", sorted_by)
    _check_shards(document["shards"], columns, is_sorted=sorted_by is not None)


def _check_shards(shards: list[dict[str, Any]], columns: dict[str, Any], *, is_sorted: bool) -> None:
    base = 0
    names: set[str] = set()
    for index, shard in enumerate(shards):
        where = f"shards[{index}]"
        need(shard["base"] == base, f"{where}.base", f"{base}, the chunks before it", shard["base"])
        base += shard["chunks"]
        keys = (shard["first_key"], shard["last_key"])
        need(all((key is not None) == is_sorted for key in keys), where, "given keys where the set is sorted", keys)
        need(shard["quantiles"].keys() <= columns.keys(), f"{where}.quantiles", "of known columns", shard["quantiles"])
        added = [name for sidecar in shard["sidecars"] for name in sidecar["columns"]]
        need(len(set(added)) == len(added), f"{where}.sidecars", "without a column twice", added)
        need(columns.keys() >= set(added), f"{where}.sidecars", "of known columns", added)
        files = [shard["name"], *(sidecar["name"] for sidecar in shard["sidecars"])]
        need(names.isdisjoint(files) and len(set(files)) == len(files), where, "files listed once", files)
        names.update(files)
