"""Open a data set and read it: chunks, columns, batches."""

import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxcore import _core
from fluxcore.data import chunk_checks as checks
from fluxcore.data import columns
from fluxcore.data import manifest as manifests
from fluxcore.data.chunk_checks import Array
from fluxcore.data.manifest import Manifest
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.source_quantiles import quantile_name, source_quantiles
from fluxcore.data.verify import VerifyReport, verify_dataset

_VERIFY = ("always", "never")


def open(path: str | os.PathLike[str], *, verify: str = "always") -> "Dataset":  # noqa: A001
    """Open the data set in the folder `path`.

    Only the manifest and the two ends of each shard are read; columns are checked when first touched.

    Args:
        path: A folder that a `ShardWriter` has published.
        verify: "always" checks each chunk's CRC whenever it is read, "never" leaves it.

    Raises:
        FileNotFoundError: there is no data set.
        CorruptShardError: a file is not what was written.
        ValueError: `verify` is another word, or a newer version wrote the data set.
    """
    return Dataset(path, verify=verify)


class Dataset:
    """A published data set: a row of chunks of T tokens each, with columns beside them.

    Immutable but for `add_column`. Safe to share between threads, and after a fork; pickling keeps the path.
    Made by `fluxcore.data.open`.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: str = "always") -> None:
        if verify not in _VERIFY:
            raise ValueError(f"`verify` must be one of {list(_VERIFY)}, got {verify!r}")
        self.path = Path(path).absolute()
        self._verify = verify == "always"
        self._load()

    def _load(self) -> None:
        self.manifest: Manifest = manifests.read(self.path)
        """What is known of the data set as a whole."""
        key = self.manifest.sorted_by
        self._core = _core.ShardSet(
            self.path,
            uuid=bytes.fromhex(self.manifest.uuid),
            dtype=self.manifest.dtype,
            chunk_tokens=self.manifest.chunk_tokens,
            vocab_size=self.manifest.vocab_size,
            tokenizer=bytes.fromhex(self.manifest.tokenizer or "00" * 16),
            sort_column="" if key is None else key.column,
            sort_descending=key is not None and key.descending,
            shards=[(s.name, s.bytes, s.chunks, bytes.fromhex(s.root)) for s in self.manifest.shards],
        )

    def __len__(self) -> int:
        return self._core.chunk_count

    def __getitem__(self, index: int) -> Array:
        """Chunk `index` as a read-only view [T] of the file, padding included (see the column `valid_len`).

        Raises:
            TypeError: `index` is no integer.
            IndexError: there is no such chunk.
            CorruptShardError: its bytes are not what was written.
        """
        return self._core.chunk(self._place(index), self._verify)

    def _place(self, index: int) -> int:
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"`index` must be the number of a chunk, got {index!r}\n\nSeveral chunks at once are read by `gather`."
            ) from None
        size = self._core.chunk_count
        if not -size <= number < size:
            raise IndexError(f"chunk {number} is out of range, the data set has {size} chunks")
        return number + size if number < 0 else number

    def __repr__(self) -> str:
        return (
            f"<fluxcore data set {str(self.path)!r}: {len(self)} chunks of {self.chunk_tokens} {self.token_dtype} "
            f"tokens, {len(self.manifest.columns)} added columns>"
        )

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk, T."""
        return self.manifest.chunk_tokens

    @property
    def vocab_size(self) -> int:
        """Every token id is below it."""
        return self.manifest.vocab_size

    @property
    def token_dtype(self) -> "np.dtype[Any]":
        """Type of the tokens as stored."""
        return np.dtype(self.manifest.dtype)

    @property
    def sources(self) -> list[str]:
        """Names of the sources; the column `source` counts into it."""
        return list(self.manifest.sources)

    @property
    def uuid(self) -> str:
        """Identity of the data set, 32 hex digits."""
        return self.manifest.uuid

    @property
    def verify_reads(self) -> bool:
        """Whether a chunk's CRC is checked whenever it is read."""
        return self._verify

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns: the standard ones, then the others sorted by name."""
        return (*STANDARD_COLUMNS, *self.manifest.columns)

    def gather(self, ids: Any, *, out: str = "int64", targets: bool = True) -> tuple[Array, Array | None]:
        """Copy the chunks `ids` into one batch, in their order; the interpreter lock is free meanwhile.

        Args:
            ids: [n] integers, each within [0, len).
            out: "uint8", "uint16", "uint32", "int32" or "int64"; must hold every token of the vocabulary.
            targets: Whether the second array is wanted.

        Returns:
            Tokens [n, T] and targets [n, T] (or None). A target is the token that follows; where there is none
            (padding, the end of a document, a position that the mask leaves out) it is -100 in the signed types and 0
            in the unsigned ones.

        Raises:
            IndexError: there is no such chunk.
            TypeError: `ids` are no integers, or `out` is no text.
            ValueError: `out` is unknown or too narrow.
            CorruptShardError: a chunk's bytes are not what was written.
        """
        if not isinstance(out, str):
            raise TypeError(f"`out` must be the name of a type such as 'int64', got {out!r}")
        numbers = np.asarray(ids)
        if numbers.ndim != 1:
            raise ValueError(f"`ids` must have one dimension, got shape {numbers.shape}")
        size = len(self)
        if numbers.size and numbers.dtype.kind in "iu" and not 0 <= int(numbers.min()) <= int(numbers.max()) < size:
            raise IndexError(f"`ids` must be within [0, {size}), got {numbers.min()} to {numbers.max()}")
        numbers = checks.integers(numbers if numbers.size else [], "ids", low=0, high=size, dtype="uint64")
        return self._core.gather(numbers, out=out, targets=targets, verify=self._verify)

    def column(self, name: str) -> Array:
        """A column of all chunks, [len], read-only and in memory: nothing that happens to the files reaches it.

        Raises:
            KeyError: there is no such column; the message lists them.
            CorruptShardError: its bytes are not what was written, or the file was cut meanwhile.
        """
        if name not in self.columns:
            raise KeyError(f"no column `{name}`; there are {', '.join(self.columns)}")
        return columns.read_column(self.path, self.manifest, self._core, name)

    def token_mask(self, index: int) -> Array | None:
        """Which positions of chunk `index` have a target that counts: [T] booleans, None where the set has no mask."""
        bits = self._core.mask(self._place(index), self._verify)
        return None if bits is None else np.unpackbits(bits, count=self.chunk_tokens, bitorder="little").view(np.bool_)

    def add_column(self, name: str, values: Any, *, definition: str = "") -> None:
        """Add a column: a checked sidecar per shard, published at once. The tokens are not touched.

        Args:
            name: 1 to 128 printable ASCII characters without a space, for example "gpt2.entropy_mean".
            values: [len] finite numbers, kept as float32; or unsigned integers, kept as they are.
            definition: What the numbers are: model, positions, unit. Kept in the manifest.

        Raises:
            TypeError, ValueError: the name or the values cannot be stored; nothing was written.
            DatasetLockedError: another process is writing to the data set.
            OSError: the disk is full or the folder cannot be written to; the data set is as it was.
        """
        self.add_columns({name: values}, {name: definition})

    def add_columns(self, values: Mapping[str, Any], definitions: Mapping[str, str] | None = None) -> None:
        """Add several columns in one publication: all of them or none. See `add_column`."""
        columns.add_columns(self.path, self.uuid, values, definitions or {})
        self._load()

    def add_source_quantiles(self, *columns: str) -> tuple[str, ...]:
        """Add the quantile of columns within the source of each chunk, as uint16 columns `COLUMN.source_quantile`.

        A value that l of the n chunks of its source are below, and e equal (itself included), has the quantile
        65535 (l + e / 2) / n, rounded. An order or a filter by it takes the same share of every source.

        Args:
            columns: Names of scores or other columns.
        Returns:
            The names of the new columns, which are published at once.
        Raises:
            KeyError: there is no such column.
            ValueError: its quantiles are there already, or their name would be too long.
            DatasetLockedError, CorruptShardError, OSError: as `add_column` and `column`.
        """
        names = {column: quantile_name(column) for column in columns}
        sources = self.column("source")
        self.add_columns(
            {name: source_quantiles(self.column(column), sources) for column, name in names.items()},
            {
                name: f"Quantile of {column} in the chunk's source, 0 to 65535, ties alike."
                for column, name in names.items()
            },
        )
        return tuple(names.values())

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> VerifyReport:
        """Read and check everything: every byte, every chunk, every column, and how they fit together.

        Args:
            progress: Called with the chunks done and the chunks in all, after each shard.
            resume_from: File that keeps which shards were found sound, so that a run that was killed, or met a fault,
                goes on behind them; a shard whose files were changed since is checked again. It is made where there is
                none, counts for this folder and manifest alone, and is deleted when all is sound. None: nothing is
                written anywhere.

        Raises:
            CorruptShardError: the first fault; shard, chunk and document where they are known.
            ValueError: `resume_from` holds something else.
            OSError: `resume_from` cannot be written.
        """
        state = None if resume_from is None else Path(resume_from)
        return verify_dataset(self.path, self.manifest, self._core, progress, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), "always" if self._verify else "never", self.uuid)


def _reopen(path: str, verify: str, uuid: str) -> Dataset:
    dataset = Dataset(path, verify=verify)
    if dataset.uuid != uuid:
        raise ValueError(
            f"the data set in `{path}` was replaced after it was pickled: its uuid is {dataset.uuid}, not {uuid}"
        )
    return dataset
