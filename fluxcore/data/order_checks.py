"""Whether the fields of an order make sense, whatever the data set."""

import difflib
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from fluxcore.data.pacing import PACINGS

FIELDS: Mapping[str, tuple[str, ...]] = {
    "sorted": ("column", "descending"),
    "shuffled": (),
    "bucketed": ("column", "edges", "shuffle"),
    "jittered": ("column", "window", "descending"),
    "interleaved": ("column", "strides", "descending"),
    "paced": ("column", "pacing", "start", "full_at", "levels", "random", "descending"),
    "chain": ("parts",),
}
"""Kinds of orders, and which fields each of them has."""


_COUNTS = {
    "window": ("places", (1 << 63) - 1),
    "strides": ("passes", (1 << 63) - 1),
    "levels": ("steps of the pool", 1 << 16),  # each is computed, and more could not be told apart
}


def check_order(fields: Mapping[str, Any]) -> None:
    """Refuse fields that do not make an order of their kind.

    Raises:
        ValueError: names the field, what it must be and what it is.
    """
    kind = fields["kind"]
    if type(kind) is not str or kind not in FIELDS:
        raise unknown("kind", kind, FIELDS)
    _check_column(kind, fields["column"], optional=kind == "paced" and fields["random"])
    if kind == "bucketed":
        _check_edges(fields["edges"])
    for name, (what, most) in _COUNTS.items():
        value = fields[name]
        if name in FIELDS[kind] and not (type(value) is int and 1 <= value <= most):
            bound = f"{most} at most" if type(value) is int and value > most else "1 at least"
            raise ValueError(f"`{name}` must be a whole number of {what}, {bound}, got {value!r}")
    for name in ("descending", "shuffle", "random"):
        if type(fields[name]) is not bool:
            raise ValueError(f"`{name}` must be True or False, got {fields[name]!r}")
    if kind == "paced":
        _check_pacing(fields)
    if kind == "chain":
        _check_parts(fields["parts"])


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is none of those known."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"\n\nDid you mean {near[0]!r}?" if near else ""
    return ValueError(f"`{what}` must be one of {', '.join(known)}, got {name!r}{hint}")


def _check_column(kind: str, column: str | None, *, optional: bool) -> None:
    if "column" not in FIELDS[kind] and column is not None:
        raise ValueError(f"`column` of a {kind} order must be None, got {column!r}")
    if "column" in FIELDS[kind] and not isinstance(column, str) and not (optional and column is None):
        raise ValueError(f"`column` of a {kind} order must be the name of a column to order by, got {column!r}")


def _check_edges(edges: tuple[float, ...]) -> None:
    if not all(low < high for low, high in zip((0.0, *edges), (*edges, 100.0), strict=True)):
        raise ValueError(f"`edges` must rise from above 0 to below 100 (percentiles), got {list(edges)}")


def _check_pacing(fields: Mapping[str, Any]) -> None:
    if fields["pacing"] not in PACINGS:
        raise unknown("pacing", fields["pacing"], PACINGS)
    if not 0 < fields["start"] <= 1:
        raise ValueError(f"`start` must be the share of the chunks to begin with, within (0, 1], got {fields['start']}")
    if not 0 <= fields["full_at"] <= 1:
        raise ValueError(
            f"`full_at` must be the share of the run after which all chunks take part, within [0, 1], "
            f"got {fields['full_at']}"
        )


def _check_parts(parts: tuple[tuple[float, Any], ...]) -> None:
    shares = [share for share, _ in parts]
    if len(parts) < 2 or shares[0] != 0:
        raise ValueError(f"`parts` must be two orders at least, the first of them at 0, got shares {shares}")
    for before, share in pairwise(shares):
        if not (before < share < 1 and math.isfinite(share)):
            raise ValueError(
                f"`at` must be a share of the run above {before} and below 1, got {share}"
                "\n\nShares of orders that follow one another are all of the whole run, and rise."
            )
