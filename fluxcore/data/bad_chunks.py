"""What a loader does about a chunk that is not what was written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fluxcore.errors import CorruptShardError

Chunks = NDArray[np.uint64]
OnBadChunk = Literal["raise", "skip"] | Callable[[CorruptShardError], int | None]

MAX_BAD_CHUNKS = 1000
_LOG = logging.getLogger(__name__)


class Substitutes:
    """Bad chunks that a run has met, and the chunks that take their rows.

    The substitute is the next sound chunk, by id and round to the first, of those that the run may read and, where
    sources are mixed, of the same source: it depends on the data alone, so that ranks that meet other bad chunks, in
    another order, choose alike, and no chunk of a validation split comes in.

    Args:
        policy: "raise", "skip", or what `Loader` says of a function.
        count: chunks of the data set.
        groups: ascending ids of the chunks that may stand for one another; none for all of them.
    Raises:
        ValueError: another word.
    """

    def __init__(self, policy: OnBadChunk, count: int, groups: Sequence[Chunks]) -> None:
        if not callable(policy) and policy not in ("raise", "skip"):
            raise ValueError(f"`on_bad_chunk` must be raise, skip or a function, got {policy!r}")
        self._policy = policy
        self._count = count
        self._groups = groups
        self.given: dict[int, int | None] = {}
        """Bad chunks so far, and what the function chose for each."""

    def add(self, error: CorruptShardError) -> None:
        """Take note of a bad chunk, or raise.

        Raises:
            CorruptShardError: `error` itself, where the policy is to raise, the fault is not that of one chunk, there
                are more than 1000 bad chunks, or none is left that is sound.
            ValueError: the function chose a chunk that is none, or one that this one stands for.
        """
        chunk = error.chunk
        if chunk in self.given:
            return
        if chunk is None or self._policy == "raise":
            raise error
        if len(self.given) >= MAX_BAD_CHUNKS:
            error.add_note(f"{MAX_BAD_CHUNKS} chunks were replaced before: restore the data set")
            raise error
        self.given[chunk] = self._choose(error, chunk)
        try:
            substitute = self._find(chunk)
        except LookupError:
            del self.given[chunk]
            error.add_note("no chunk that could stand for it is sound")
            raise error from None
        _LOG.warning("%s; chunk %d takes the rows of chunk %d", error, substitute, chunk)

    def _choose(self, error: CorruptShardError, chunk: int) -> int | None:
        answer = self._policy(error) if callable(self._policy) else None
        if answer is None:
            return None
        chosen = index(answer) if isinstance(answer, SupportsIndex) and not isinstance(answer, bool) else -1
        if not 0 <= chosen < self._count or self._leads_to(chosen, chunk):
            raise ValueError(
                f"`on_bad_chunk` must return None or another chunk within [0, {self._count}),"
                f" got {answer!r} for {chunk}"
            ) from error
        return chosen

    def replace(self, ids: NDArray[Any]) -> Chunks:
        """The chunks to read for `ids`."""
        if not self.given:
            return ids.astype(np.uint64)
        return np.array([self._find(int(chunk)) for chunk in ids], np.uint64)

    def affects(self, ids: NDArray[Any]) -> bool:
        """Whether a chunk of `ids` has a substitute."""
        return any(int(chunk) in self.given for chunk in ids)

    def as_dict(self) -> dict[int, int]:
        """Bad chunk -> its substitute."""
        return {chunk: self._find(chunk) for chunk in sorted(self.given)}

    def _find(self, chunk: int) -> int:
        while chunk in self.given:
            chosen = self.given[chunk]
            chunk = self._next_sound(chunk) if chosen is None else chosen
        return chunk

    def _leads_to(self, chunk: int | None, end: int) -> bool:
        """Whether the choices of the function, from `chunk` on, come to `end`."""
        while chunk is not None and chunk != end:
            chunk = self.given.get(chunk)
        return chunk == end

    def _next_sound(self, chunk: int) -> int:
        group = next((ids for ids in self._groups if _holds(ids, chunk)), None)
        size = self._count if group is None else len(group)
        place = chunk if group is None else int(np.searchsorted(group, chunk))
        for step in range(1, size):
            other = (place + step) % size
            candidate = other if group is None else int(group[other])
            if candidate not in self.given:
                return candidate
        raise LookupError(chunk)

    def state(self) -> list[list[int | None]]:
        """Plain values that `load` takes."""
        return [[chunk, chosen] for chunk, chosen in sorted(self.given.items())]

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the substitutes in a loader's state, whatever the policy.

        Raises:
            ValueError: as `check`; nothing has changed then.
        """
        self.take(self.check(state))

    def take(self, given: dict[int, int | None]) -> None:
        """Go on with what `check` returned."""
        self.given = given

    def check(self, state: Mapping[str, Any]) -> dict[int, int | None]:
        """The substitutes in a loader's state; nothing changes.

        Raises:
            ValueError: it does not hold chunks of this data set.
        """
        pairs = state.get("bad_chunks", [])
        try:
            given = {chunk: chosen for chunk, chosen in pairs}  # noqa: C416
            chunks = [chunk for pair in given.items() for chunk in pair if chunk is not None]
            if len(given) > MAX_BAD_CHUNKS or not all(
                type(chunk) is int and 0 <= chunk < self._count for chunk in chunks
            ):
                raise ValueError("they are no chunks of this data set")
            _check_no_circle(given)
            before, self.given = self.given, given
            try:
                self.as_dict()
            finally:
                self.given = before
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"`state` must hold pairs of chunks, its 'bad_chunks' is {str(pairs)[:200]}: {error}"
            ) from error
        return given


def _check_no_circle(given: Mapping[int, int | None]) -> None:
    for first in given:
        chunk: int | None = first
        for _ in range(len(given)):
            chunk = None if chunk is None else given.get(chunk)
        if chunk is not None and chunk in given:
            raise ValueError(f"chunk {first} stands for itself")


def _holds(ids: Chunks, chunk: int) -> bool:
    place = int(np.searchsorted(ids, chunk))
    return place < len(ids) and int(ids[place]) == chunk
