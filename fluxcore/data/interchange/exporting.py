"""A data set to files of other projects."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from fluxcore import __version__
from fluxcore.data.dataset import Dataset
from fluxcore.data.dataset import open as open_data_set
from fluxcore.data.interchange.arrow_chunks import write_rows
from fluxcore.data.interchange.blocks import Tokens
from fluxcore.data.interchange.hdf5_export import write_file
from fluxcore.data.interchange.modded_nanogpt import MAX_TOKENS, count_full_files, write_files
from fluxcore.data.interchange.pieces import read_pieces
from fluxcore.data.interchange.publishing import published_folder
from fluxcore.data.progress import Progress, ProgressCallback

EXPORTS = ("modded-nanogpt", "hdf5", "datasets")
_BY_ROWS = {"datasets": write_rows, "hdf5": write_file}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    path: Path
    chunks: int
    tokens: int
    """Without padding."""


def export(
    ds: Dataset | str | PathLike[str],
    path: str | PathLike[str],
    *,
    format: str,  # noqa: A002
    file_tokens: int = 100_000_000,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Write a data set for other projects, chunks in the order in which they are stored; each is checked.

    A run that was killed, or found the disk full, leaves what it wrote under a temporary name, and the same call goes
    on: with "modded-nanogpt" and "datasets" from the files that it filled, with "hdf5" from the last checkpoint of its
    one file. The result has the same bytes as that of a run without a break.

    Args:
        ds: a data set or its folder.
        path: folder to write; nothing may stand there, and nothing does until all is written.
        format: "modded-nanogpt": the tokens without padding, one chunk after another, in files tokens_*.bin; ids beyond
            uint16 make files as llm.c has them for Llama 3. "datasets": a folder for `datasets.load_from_disk`, a row a
            chunk, with every column, in files of half a GiB of tokens; `convert` makes the same data set of it. "hdf5":
            the file chunks.h5 with the same.
        file_tokens: with "modded-nanogpt", tokens a file, the last one excepted.
        progress: told after some megabytes and at the end, in chunks.
    Raises:
        ValueError: an argument out of range, or a column whose name "datasets" keeps for itself.
        FileExistsError: something stands at `path`.
        CorruptShardError: a chunk is not what was written.
        MissingExtraError: `datasets` or h5py is not installed.
        OSError: `path` cannot be written.
    """
    if format not in EXPORTS:
        raise ValueError(f"`format` must be one of {', '.join(EXPORTS)}, got {format!r}")
    if not 1 <= file_tokens <= MAX_TOKENS:
        raise ValueError(f"`file_tokens` must be within [1, {MAX_TOKENS}], got {file_tokens}")
    data = ds if isinstance(ds, Dataset) else open_data_set(ds)
    report = progress or (lambda _: None)
    by_rows = _BY_ROWS.get(format)
    # Another version may lay files out in another way.
    with published_folder(Path(path), f"{data.manifest.hash} {format} {file_tokens} {__version__}") as folder:
        if by_rows is None:
            _write_stream(data, folder, file_tokens, report)
        else:
            written = by_rows(data, folder)
            found = next(written)
            for chunks in written:
                report(Progress(chunks, len(data), (chunks - found) * data.chunk_tokens))
    tokens = int(data.column("valid_len").sum(dtype="uint64"))
    report(Progress(len(data), len(data), tokens))
    return ExportReport(Path(path), len(data), tokens)


def _write_stream(data: Dataset, folder: Path, file_tokens: int, report: ProgressCallback) -> None:
    """Write the files, but for those that an interrupted run filled."""
    full = count_full_files(folder, vocab_size=data.vocab_size, file_tokens=file_tokens)
    ends = np.cumsum(data.column("valid_len"), dtype=np.int64)
    first = int(np.searchsorted(ends, full * file_tokens, side="right"))
    skip = full * file_tokens - int(ends[first - 1]) if first else full * file_tokens

    def pieces() -> Iterator[Tokens]:
        left = skip
        for piece in read_pieces(data, first):
            yield piece.stream[left:]
            left = 0

    written = write_files(folder, pieces(), vocab_size=data.vocab_size, file_tokens=file_tokens, first=full)
    for done in written:
        chunks = int(np.searchsorted(ends, done, side="right"))
        report(Progress(chunks, len(data), done - full * file_tokens))
