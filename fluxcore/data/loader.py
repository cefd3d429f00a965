"""Batches of a data set in an order that can be resumed exactly, on any number of ranks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore.data.batches import plan_batches
from fluxcore.data.dataset import Dataset
from fluxcore.data.loader_state import FORMAT, check_state, hash_subset
from fluxcore.data.order import Order
from fluxcore.data.stream import OUT_TYPES, Reading, Stream


class BatchMeta(NamedTuple):
    """What is known about the rows of a batch; [b] int64 tensors, and float32 scores by name."""

    chunk_ids: Tensor
    source: Tensor
    doc_id: Tensor
    doc_offset: Tensor
    valid_len: Tensor
    """Tokens of the row that are text; the rest is padding."""
    scores: dict[str, Tensor]


class Batch(NamedTuple):
    """Rows of a data set: tokens [b, T], the token that follows each of them [b, T], and what is known about them."""

    tokens: Tensor
    targets: Tensor
    meta: BatchMeta


class Explanation(NamedTuple):
    """Where the rows of a global batch come from; arrays of one length, row by row."""

    step: int
    chunk_ids: NDArray[np.int64]
    epoch: NDArray[np.int64]
    position: NDArray[np.int64]
    """Within the epoch."""
    scores: dict[str, NDArray[np.float32]]


class Loader:
    """Streams a data set's chunks in an order, reading ahead on C++ threads.

    `for tokens, targets, meta in loader` goes on at `loader.step` and ends after `len(loader)` batches; a loop that was
    left early goes on where it stopped, and one that ran to its end starts over. Tensors are the caller's to keep.
    The stream of global batches depends on data set, order, seed and global batch size alone, not on the world size:
    see `BatchPlan` for the ranks' shares.

    Args:
        ds: the data set.
        order: which chunk comes when.
        global_batch_size: rows of a batch over all ranks; divisible by `world_size`.
        rank: which share of each batch to read, within [0, world_size).
        world_size: ranks that read together.
        epochs: passes over the data; positions run on from one to the next without a short batch. Default 1.
        total_steps: the run's length in batches, in place of `epochs`.
        drop_last: drop the run's last batch if it is short; else its rows are shared as evenly as they go.
        seed: key of the shuffles, within [0, 2^64).
        out: dtype of tokens and targets, wide enough for the vocabulary: "int64" or "int32", whose targets are -100
            where there is nothing to predict, or "uint8", "uint16" or "uint32", whose targets are 0 there. None: as
            stored.
        pin: tokens and targets in page-locked memory, where CUDA is there.
        columns: names of float32 columns to hand out in `meta.scores`.
        verify: check every chunk's CRC. None: as the data set was opened.
        prefetch: batches in work ahead of the one in use; 1 at least.
        threads: C++ threads that read; with 0 nothing is read ahead.
        subset: chunk ids, each once; the order, its ranks and percentiles run over these alone.
    Raises:
        ValueError: an argument that does not fit the data set or another argument.
        CorruptShardError: while iterating, at the batch with the corrupt chunk.
    """

    def __init__(
        self,
        ds: Dataset,
        order: Order,
        *,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = None,
        total_steps: int | None = None,
        drop_last: bool = True,
        seed: int = 0,
        out: str | None = None,
        pin: bool = False,
        columns: Sequence[str] = (),
        verify: bool | None = None,
        prefetch: int = 4,
        threads: int = 2,
        subset: NDArray[np.int64] | None = None,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        for name, value in (("prefetch", prefetch), ("threads", threads)):
            if value < 0:
                raise ValueError(f"`{name}` must be >= 0, got {value}")
        chunks = None if subset is None else _check_subset(subset, len(ds))
        self.ds, self.order, self.seed = ds, order, seed
        self._columns = {name: _score_column(ds, name) for name in columns}
        self._compiled = order.compile(ds, seed=seed, subset=chunks)
        self._plan = plan_batches(
            self._compiled,
            global_batch_size=global_batch_size,
            rank=rank,
            world_size=world_size,
            epochs=epochs,
            total_steps=total_steps,
            drop_last=drop_last,
        )
        self._reading = Reading(
            out=_check_out(out, ds),
            pin=pin,
            verify=ds.verify_reads if verify is None else verify,
            prefetch=prefetch,
            threads=threads,
        )
        self._subset_hash = hash_subset(chunks)
        self._step = 0
        self._ran_out = False
        self._stream: Stream | None = None

    def __len__(self) -> int:
        """Global batches in the run, from its beginning."""
        return self._plan.steps

    @property
    def step(self) -> int:
        """Batches handed out since the beginning of the run: the number of the next one."""
        return self._step

    @property
    def epoch(self) -> int:
        """Epoch of the next batch's first row."""
        return self._step * self._plan.global_batch_size // self._compiled.epoch_size

    def __iter__(self) -> Iterator[Batch]:
        if self._ran_out:
            self.rewind()
        end = len(self)
        while self._step < end:
            batch = self._next_batch()
            self._step += 1
            yield batch
        self._ran_out = True
        self._stream = None

    def rewind(self) -> None:
        """Go back to the first batch."""
        self._move_to(0)

    def skip(self, steps: int) -> None:
        """Leave out the next `steps` batches; reads nothing.

        Raises:
            ValueError: there are not so many left.
        """
        if not 0 <= steps <= len(self) - self._step:
            raise ValueError(f"`steps` must be within [0, {len(self) - self._step}], the batches left, got {steps}")
        self._move_to(self._step + steps)

    def state_dict(self) -> dict[str, Any]:
        """The position in the run, and what the run is: plain values, below 1 KiB as JSON.

        Batches that were read ahead and not handed out are not counted.
        """
        return {
            "format": FORMAT,
            "uuid": self.ds.uuid,
            "manifest": self.ds.manifest.hash,
            "subset": self._subset_hash,
            "order": self.order.to_dict(),
            "seed": self.seed,
            "global_batch_size": self._plan.global_batch_size,
            "step": self._step,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken, on any rank and world size.

        Raises:
            ValueError: `state` is of another data set, order, seed or batch size, or past the end of this run.
        """
        step = check_state(state, self.state_dict(), len(self))
        self._move_to(step)

    def explain(self, step: int) -> Explanation:
        """Which chunks make global batch `step`, and why: epochs, positions, and the scores that the order goes by.

        Raises:
            ValueError: the run has no such batch.
        """
        if not 0 <= step < len(self):
            raise ValueError(f"`step` must be within [0, {len(self)}), got {step}")
        first, rows = self._plan.global_rows(step)
        ids = self._compiled.chunks_at(first, rows).astype(np.int64)
        epoch, position = np.divmod(np.arange(first, first + rows), self._compiled.epoch_size)
        columns = dict(self._columns)
        if self.order.column is not None:
            columns[self.order.column] = self.ds.column(self.order.column)
        return Explanation(step, ids, epoch, position, {name: values[ids] for name, values in columns.items()})

    def _next_batch(self) -> Batch:
        stream = self._stream
        if stream is None or stream.step != self._step or not stream.in_this_process():
            self._stream = stream = Stream(self.ds, self._compiled, self._plan, self._step, self._reading)
        try:
            facts, tokens, targets = stream.next()
        except BaseException:
            self._stream = None
            raise
        return Batch(tokens, targets, self._describe(facts))

    def _describe(self, facts: Tensor) -> BatchMeta:
        chunk_ids, source, doc_id, doc_offset, valid_len = facts.unbind()
        rows = chunk_ids.numpy()
        scores = {name: torch.from_numpy(values[rows]) for name, values in self._columns.items()}
        return BatchMeta(chunk_ids, source, doc_id, doc_offset, valid_len, scores)

    def _move_to(self, step: int) -> None:
        self._step = step
        self._ran_out = False
        self._stream = None

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self._arguments, "step": self._step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state["arguments"])
        self._step = state["step"]


def _check_subset(subset: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """Ascending chunk ids; the order in which they came does not matter."""
    ids = np.asarray(subset)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"`subset` must be a 1-D integer array of chunk ids, got {ids.dtype} {list(ids.shape)}")
    ids = np.sort(ids)
    if ids.size and not (ids[0] >= 0 and ids[-1] < count):
        raise ValueError(f"`subset` must hold chunk ids within [0, {count}), got {ids[0]} to {ids[-1]}")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise ValueError(f"`subset` must hold each chunk once, got chunk {ids[twice[0]]} more than once")
    return ids.astype(np.uint64)


def _check_out(out: str | None, ds: Dataset) -> str:
    if out is None:
        return ds.token_dtype.name
    fitting = [name for name, dtype in OUT_TYPES.items() if torch.iinfo(dtype).max >= ds.vocab_size - 1]
    if out not in fitting:
        raise ValueError(f"`out` must be one of {', '.join(fitting)} for a vocabulary of {ds.vocab_size}, got {out!r}")
    return out


def _score_column(ds: Dataset, name: str) -> NDArray[np.float32]:
    values = ds.column(name) if name in ds.columns else None
    if values is None or values.dtype != np.float32:
        scores = [column for column in ds.columns if ds.column(column).dtype == np.float32]
        raise ValueError(
            f"`columns` must be score columns of the data set ({', '.join(scores) or 'none'}), got {name!r}"
        )
    return values
