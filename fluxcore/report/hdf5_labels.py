"""What an HDF5 file of chunks holds: its labels, in documents and tokens."""

from pathlib import Path

import numpy as np

from fluxcore.data.interchange.hdf5 import read_label_counts
from fluxcore.report.markdown import markdown_table


def inspect_hdf5(path: Path) -> str:
    """A table of the labels of `category_for_chunk`.

    Raises:
        MalformedInputError: it is no such file.
        MissingExtraError: h5py is not installed.
    """
    counts, width = read_label_counts(path)
    total = np.sum([[each.documents, each.chunks, each.tokens] for each in counts.values()], axis=0).tolist()
    rows = [(name, each.documents, each.chunks, each.tokens) for name, each in counts.items()]
    text = markdown_table(("category", "documents", "chunks", "tokens"), [*rows, ("all", *total)])
    return f"{path}: chunks of {width} tokens\n\n{text}"
