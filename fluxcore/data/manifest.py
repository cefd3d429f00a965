"""The manifest: which files make up a data set, and what they hold. Readers open only what it lists."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fluxcore import _core
from fluxcore.data.manifest_check import (
    FORMAT,
    MAX_MANIFEST_BYTES,
    VERSION,
    FieldError,
    UnsupportedVersionError,
    check_document,
)
from fluxcore.data.regular_file import open_regular
from fluxcore.errors import CorruptShardError

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnInfo:
    """A column beyond the standard ones."""

    dtype: str
    definition: str
    """What the numbers are: model and revision, positions, unit, log base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SortKey:
    """The column by which the chunks are physically sorted."""

    column: str
    descending: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SidecarInfo:
    """A file that holds columns which were added to a shard after it was written."""

    name: str
    bytes: int
    root: str
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One shard file."""

    name: str
    bytes: int
    chunks: int
    base: int
    """Id of its first chunk."""
    root: str
    """xxh3-128 root hash, 32 hex digits."""
    first_key: float | None = None
    """Sort key of its first chunk, where the data set is sorted."""
    last_key: float | None = None
    quantiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Minimum, quartiles and maximum of each score, each a value that occurs."""
    sidecars: tuple[SidecarInfo, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything that is known of a data set without opening a shard."""

    generation: int
    """1 at first, one more with each publication."""
    uuid: str
    """32 hex digits; the same in every file of the data set."""
    chunk_tokens: int
    dtype: str
    vocab_size: int
    tokenizer: str | None
    """128-bit fingerprint, 32 hex digits."""
    token_mask: bool
    sources: tuple[str, ...]
    columns: Mapping[str, ColumnInfo]
    """Columns beyond the standard ones, by name."""
    sorted_by: SortKey | None
    parent: str | None
    """Hash of the manifest of the data set that this one was made from."""
    shards: tuple[ShardInfo, ...]
    hash: str = field(default="", compare=False)
    """BLAKE2b-128 of the canonical JSON, 32 hex digits: changes with every publication. Empty until published."""

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return sum(shard.chunks for shard in self.shards)


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def encode(manifest: Manifest) -> bytes:
    """The manifest file: one line of canonical JSON, one line with its CRC-32C."""
    document = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    del document["hash"]
    line = _canonical(document)
    return line + b"\ncrc32c:%08x\n" % _core.crc32c(line)


def publish(folder: Path, manifest: Manifest) -> Manifest:
    """Replace the folder's manifest at once, and durably; returns it with its hash.

    Raises:
        ValueError: it would break a limit of the format.
        OSError: it could not be written; the old one stands.
    """
    data = encode(manifest)
    path = folder / MANIFEST_NAME
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(
            f"a manifest can have {MAX_MANIFEST_BYTES} bytes, this one would have {len(data)}"
            "\n\nUse fewer, larger shards: raise `shard_bytes`."
        )
    published = decode(data, path)  # what no reader would accept must not become the data set
    _core.publish_file(path, data)
    return published


def read(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`.

    Raises:
        FileNotFoundError: there is none.
        CorruptShardError: it is not what was written.
        ValueError: a newer version of fluxcore wrote it.
    """
    path = folder / MANIFEST_NAME
    try:
        file = os.fdopen(open_regular(path, os.O_RDONLY), "rb")
    except FileNotFoundError as error:
        message = f"no data set: `{MANIFEST_NAME}` is missing"
        if folder.is_dir() and next(folder.glob("shard-*.fxs"), None) is not None:
            message += "; writing was interrupted before it was published, write it again"
        raise FileNotFoundError(error.errno, message, str(folder)) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_MANIFEST_BYTES:
            raise _corrupt(path, f"it has {size} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
        return decode(file.read(size), path)


def decode(data: bytes, path: Path) -> Manifest:
    """Parse and check the bytes of a manifest; `path` is for the messages."""
    line, _, check = data.partition(b"\n")
    if not re.fullmatch(rb"crc32c:[0-9a-f]{8}\n", check):
        raise _corrupt(
            path, "its second and last line must be its CRC; it may have been cut short, or hold two manifests"
        )
    if int(check[7:15], 16) != _core.crc32c(line):
        raise _corrupt(path, "its CRC does not match")
    try:
        document = json.loads(line, object_pairs_hook=_object)
        if _canonical(document) != line:
            raise FieldError("it is not in canonical form")
        check_document(document)
    except (FieldError, ValueError, RecursionError) as error:
        raise _corrupt(path, str(error)) from error
    except UnsupportedVersionError as error:
        raise ValueError(f"`{path}`: {error}\n\nUpgrade fluxcore to read it.") from None
    return _build(document, hashlib.blake2b(line, digest_size=16).hexdigest())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FieldError("a key occurs twice")
    return result


def _build(document: dict[str, Any], digest: str) -> Manifest:
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    fields["hash"] = digest
    fields["sources"] = tuple(fields["sources"])
    fields["columns"] = {name: ColumnInfo(**info) for name, info in fields["columns"].items()}
    fields["sorted_by"] = None if fields["sorted_by"] is None else SortKey(**fields["sorted_by"])
    fields["shards"] = tuple(_build_shard(shard) for shard in fields["shards"])
    return Manifest(**fields)


def _build_shard(fields: dict[str, Any]) -> ShardInfo:
    sidecars = tuple(SidecarInfo(**{**car, "columns": tuple(car["columns"])}) for car in fields["sidecars"])
    quantiles = {name: tuple(values) for name, values in fields["quantiles"].items()}
    return ShardInfo(**{**fields, "sidecars": sidecars, "quantiles": quantiles})


def _corrupt(path: Path, why: str) -> CorruptShardError:
    return CorruptShardError(f"`{path}` is corrupt: {why}", shard=path.name)
