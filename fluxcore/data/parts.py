"""One or more data sets as what a sort reads: their chunks numbered through, in the order of the parts."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore.data.chunk_checks import Array
from fluxcore.data.column_parts import take_columns
from fluxcore.data.columns import shard_column
from fluxcore.data.dataset import Dataset
from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.manifest import Manifest
from fluxcore.data.manifest_check import STANDARD_COLUMNS
from fluxcore.data.ranking import is_index
from fluxcore.data.source_quantiles import is_quantile
from fluxcore.data.writer_settings import check_sources

Source = Dataset | str | PathLike[str]
"""A data set or its folder."""

_ALIKE = ("chunk_tokens", "dtype", "vocab_size", "tokenizer", "token_mask")
_MOST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Part:
    """A data set among others."""

    data: Dataset
    first: int
    """Id of its first chunk."""
    doc_base: int
    """What is added to its document ids, so that no two parts share one."""
    index_base: int
    """What is added to its original indices."""
    sources: NDArray[np.uint16]
    """Number of each of its sources in the table of all."""

    def united(self, name: str, values: Array) -> Array:
        """Values of its column `name` as they are among the others."""
        if name == "source":
            return self.sources[values]
        base = {"doc_id": self.doc_base, "original_index": self.index_base}.get(name, 0)
        return values + np.uint64(base) if base else values


class Parts:
    """Data sets in a row, read as if they were one.

    Sources are united by name. Document ids and original indices of a part go on behind the highest of those before it.

    Args:
        data: at least one, alike in chunk length, token type, vocabulary, tokenizer, mask and columns.
        bases: `bases` of an earlier `Parts` of the same data sets; None to find them, in one pass over two columns.
    Raises:
        ValueError: the data sets are not alike, or one comes twice.
        CorruptShardError: a column is not what was written.
    """

    def __init__(self, data: Sequence[Dataset], bases: Sequence[tuple[int, int]] | None = None) -> None:
        if not data:
            raise ValueError("`src` must be a data set or a list of them, got an empty list")
        self.data = tuple(data)
        self.manifest: Manifest = data[0].manifest if len(data) == 1 else _unite(self.data)
        """Of the only data set, or what is common to all; its hash then follows from theirs."""
        self.bases = list(_bases(self.data)) if bases is None else list(bases)
        """Document base and index base of each."""
        firsts = np.cumsum([0, *(len(ds) for ds in data)]).tolist()
        numbers = {name: number for number, name in enumerate(self.manifest.sources)}
        self._parts = [
            Part(ds, first, *base, np.array([numbers[name] for name in ds.sources], np.uint16))
            for ds, first, base in zip(data, firsts[:-1], self.bases, strict=True)
        ]
        self._size: int = firsts[-1]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk, T."""
        return self.manifest.chunk_tokens

    @property
    def token_dtype(self) -> "np.dtype[Any]":
        """Type of the tokens as stored."""
        return np.dtype(self.manifest.dtype)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return (*STANDARD_COLUMNS, *self.manifest.columns)

    def column(self, name: str) -> Array:
        """A column of all chunks, [len]; a view where there is one part.

        Raises:
            KeyError: there is no such column.
            CorruptShardError: its bytes are not what was written.
        """
        if len(self._parts) == 1:
            return self.data[0].column(name)
        filled = [part for part in self._parts if len(part.data)] or self._parts[:1]
        return np.concatenate([part.united(name, part.data.column(name)) for part in filled])

    def take(self, names: Iterable[str], ids: NDArray[np.uint64]) -> dict[str, Array]:
        """Columns of the chunks `ids`, [n] ascending; see `take_columns`."""
        if len(self._parts) == 1:
            return take_columns(self.data[0], names, ids)
        types = STANDARD_COLUMNS | {name: info.dtype for name, info in self.manifest.columns.items()}
        columns: dict[str, Array] = {name: np.empty(len(ids), types[name]) for name in names}
        cuts = np.searchsorted(ids, np.array([part.first for part in self._parts[1:]], np.uint64)).tolist()
        for part, start, stop in zip(self._parts, [0, *cuts], [*cuts, len(ids)], strict=True):
            if stop > start:
                found = take_columns(part.data, columns, ids[start:stop] - np.uint64(part.first))
                for name, values in found.items():
                    columns[name][start:stop] = part.united(name, values)
        return columns

    def payload(self, ids: NDArray[np.uint64]) -> dict[str, Array]:
        """Checked chunks: "tokens" [n, T], and where the set has one "mask" [n, ceil(T / 8)]; `ids` in any order.

        Raises:
            CorruptShardError: a chunk is not what was written.
        """
        if len(self._parts) == 1:
            return _payload(self.data[0], ids)
        rows: dict[str, Array] = {}
        numbers = np.searchsorted(np.array([part.first for part in self._parts[1:]], np.uint64), ids, side="right")
        for number in np.unique(numbers).tolist():
            part, own = self._parts[number], numbers == number
            for name, values in _payload(part.data, ids[own] - np.uint64(part.first)).items():
                if name not in rows:
                    rows[name] = np.empty((len(ids), values.shape[1]), values.dtype)
                rows[name][own] = values
        return rows


def open_parts(src: Source | Sequence[Source]) -> Parts:
    """The data sets that `src` names.

    Raises:
        ValueError: they are not alike, one comes twice, or there is none.
        FileNotFoundError: a folder holds no data set.
    """
    given = [src] if isinstance(src, Dataset | str | PathLike) else list(src)
    return Parts([one if isinstance(one, Dataset) else open_data_set(one) for one in given])


def _payload(ds: Dataset, ids: NDArray[np.uint64]) -> dict[str, Array]:
    tokens, _ = ds._core.gather(ids, out=ds.token_dtype.name, targets=False, verify=True)
    if not ds.manifest.token_mask:
        return {"tokens": tokens}
    bits = [ds._core.mask(int(chunk), False) for chunk in ids]  # checked together with the tokens
    return {"tokens": tokens, "mask": np.stack([row for row in bits if row is not None])}


def _unite(data: Sequence[Dataset]) -> Manifest:
    _check_alike(data)
    filled = [ds for ds in data if len(ds)] or list(data)
    sources = tuple(dict.fromkeys(name for ds in data for name in ds.sources))
    check_sources(sources)
    digest = "\n".join(["fluxcore parts 1", *(ds.manifest.hash for ds in data)])
    return replace(
        filled[0].manifest,
        generation=1,
        sources=sources,
        columns=_columns(filled[0]),
        sorted_by=None,
        parent=None,
        shards=(),
        hash=hashlib.blake2b(digest.encode(), digest_size=16).hexdigest(),
    )


def _columns(ds: Dataset) -> dict[str, Any]:
    """What the rows of one part say in any company: neither places in an order nor quantiles."""
    return {name: info for name, info in ds.manifest.columns.items() if not is_index(name) and not is_quantile(name)}


def _check_alike(data: Sequence[Dataset]) -> None:
    """Raise ValueError where data sets cannot be one; a part without chunks needs no columns."""
    folders = [ds.path.resolve() for ds in data]
    twice = next((folder for number, folder in enumerate(folders) if folder in folders[:number]), None)
    if twice is not None:
        raise ValueError(f"`src` must name each data set once, got `{twice}` twice")
    first = next((ds for ds in data if len(ds)), data[0])
    for ds in data:
        for fact in _ALIKE:
            one, other = getattr(first.manifest, fact), getattr(ds.manifest, fact)
            if one != other:
                raise ValueError(
                    f"`src` must be alike in `{fact}`, got {one} in `{first.path}` and {other} in `{ds.path}`"
                    "\n\nTokenise all parts with the same tokenizer and options."
                )
        ours, theirs = _columns(first), _columns(ds)
        unlike = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if unlike and len(ds):
            raise ValueError(
                f"`src` must have the same columns in all parts, got another `{unlike[0]}` (or none) in `{ds.path}`"
                f" than in `{first.path}`\n\nScore every part with one and the same scorer."
            )


def _bases(data: Sequence[Dataset]) -> Iterator[tuple[int, int]]:
    bases = {"doc_id": 0, "original_index": 0}
    for ds in data:
        yield bases["doc_id"], bases["original_index"]
        if len(data) == 1:
            return
        for name, base in bases.items():
            shards = range(len(ds.manifest.shards))
            tops = [int(shard_column(ds.path, ds.manifest, ds._core, number, name).max()) for number in shards]
            bases[name] = base + max(tops, default=-1) + 1
            if bases[name] > _MOST:
                raise ValueError(
                    f"`src` must have `{name}` that fit into 64 bits one part behind the other, got up to"
                    f" {max(tops)} in `{ds.path}`\n\nWrite that part with smaller ones."
                )
