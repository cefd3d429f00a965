"""Batches read ahead by the C++ loader, into tensors that nobody else holds."""

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore import _core
from fluxcore.data.bad_chunks import Substitutes
from fluxcore.data.batches import BatchPlan
from fluxcore.data.dataset import Dataset
from fluxcore.errors import CorruptShardError

OUT_TYPES = {name: getattr(torch, name) for name in ("uint8", "uint16", "uint32", "int32", "int64")}

Buffers = tuple[NDArray[np.int64], Tensor, Tensor]
"""Chunk ids [b], tokens and targets [b, T]."""

_PLANNED = 64  # batches beyond those in sight

_NEVER = -1
_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def _end_all() -> None:
    """A fork has none of the threads of its parent."""
    for stream in _streams:
        stream.step = _NEVER


# To ask the system for each batch which process this is would take longer than planning it.
os.register_at_fork(after_in_child=_end_all)


@dataclass(frozen=True, slots=True)
class Reading:
    """How batches are read; `Loader` describes the fields."""

    out: str
    pin: bool
    verify: bool
    prefetch: int
    threads: int
    look_ahead: int
    drop_behind: bool
    targets: bool


class Stream:
    """Every `stride`-th batch of a plan from a step on, `prefetch` of them in work.

    A batch is written once, by a thread of the C++ loader, straight into tensors that nobody else has; from `next` on
    they are the caller's, and when the caller has let go of them their memory serves a later batch. In a fork the
    stream has ended: its `step` is none.
    """

    def __init__(
        self,
        ds: Dataset,
        order: _core.Order,
        plan: BatchPlan,
        step: int,
        reading: Reading,
        substitutes: Substitutes,
        stride: int = 1,
    ) -> None:
        self.step = step
        """Number of the batch that `next` waits for."""
        self.stride = stride
        _streams.add(self)
        self._shards = ds._core
        self._order = order
        self._substitutes = substitutes
        self._verify = reading.verify
        self._drop_behind = reading.drop_behind
        self._plan = plan
        self._targets = reading.targets
        pin = reading.pin and torch.cuda.is_available()
        self._allocate = _allocate_pinned(ds.chunk_tokens, reading) if pin else None
        self._planned = step
        self._end = plan.steps
        in_work = max(reading.prefetch, 1) if reading.threads else 1
        self._rows = max(plan.global_batch_size // plan.world_size, 1)
        # Tokens and targets of the batches in work, the one that was handed out and the one before it.
        kept = 2 * (max(reading.prefetch, 1) + 2)
        self._nothing = torch.empty((self._rows, 0), dtype=OUT_TYPES[reading.out])  # where targets are not wanted
        self._memory = _core.BatchMemory(self._rows, ds.chunk_tokens, reading.out, kept)
        sight = -(-reading.look_ahead // self._rows) if reading.threads else 0
        self._core = self._loader(order, threads=reading.threads, in_work=in_work, sight=sight)
        self._in_sight = (in_work + sight) * stride
        self._plan_more()

    def _loader(self, order: _core.Order, *, threads: int, in_work: int, sight: int) -> _core.Loader:
        return _core.Loader(
            self._shards,
            order,
            verify=self._verify,
            threads=threads,
            in_work=in_work,
            sight=sight,
            memory=self._memory,
            targets=self._targets,
            wrap=torch.from_numpy,
            allocate=self._allocate,
            nothing=self._nothing,
            drop_behind=self._drop_behind,
        )

    def next(self) -> Buffers:
        """Wait for the next batch.

        Raises:
            CorruptShardError: a chunk of it is not what was written, and nothing stands for it.
        """
        try:
            buffers = self._core.next()
        except CorruptShardError as error:
            self._substitutes.add(error)
            buffers = self._read_with_substitutes()
        else:
            if self._substitutes.given and self._substitutes.affects(buffers[0]):
                buffers = self._read_with_substitutes()
        self.step += self.stride
        if self._planned < self._end and self._planned - self.step < self._in_sight:
            self._plan_more()
        return buffers

    def _plan_more(self) -> None:
        """Give the loader the batches in sight and some more, so that most calls of `next` plan nothing."""
        reach = min(self.step + self._in_sight + _PLANNED * self.stride, self._end)
        steps = range(self._planned, reach, self.stride)
        self._core.plan([self._plan.rank_rows(step) for step in steps])
        self._planned += len(steps) * self.stride

    def _read_with_substitutes(self) -> Buffers:
        """The next batch, from the chunks that stand for bad ones; one of them may turn out to be bad too."""
        position, rows = self._plan.rank_rows(self.step)
        ids = self._order.chunks_at(position, rows)
        while True:
            order = _core.RankedOrder(self._substitutes.replace(ids), rows, [(0, rows, "forward", 1)], 0)
            core = self._loader(order, threads=0, in_work=1, sight=0)
            core.plan([(0, rows)])
            try:
                return core.next()
            except CorruptShardError as error:
                self._substitutes.add(error)


def _allocate_pinned(chunk_tokens: int, reading: Reading) -> Callable[[int], tuple[Tensor, int, Tensor | None, int]]:
    """What gives page-locked tokens and targets, each with its address; PyTorch itself uses such memory again."""

    def allocate(rows: int) -> tuple[Tensor, int, Tensor | None, int]:
        def empty() -> Tensor:
            return torch.empty((rows, chunk_tokens), dtype=OUT_TYPES[reading.out], pin_memory=True)

        tokens, targets = empty(), empty() if reading.targets else None
        return tokens, tokens.data_ptr(), targets, 0 if targets is None else targets.data_ptr()

    return allocate


def check_out(out: str | None, ds: Dataset) -> str:
    """The dtype to hand out, as `OUT_TYPES` names it; as stored for None.

    Raises:
        ValueError: an unknown one, or one too narrow for the vocabulary.
    """
    if out is None:
        return ds.token_dtype.name
    fitting = [name for name, dtype in OUT_TYPES.items() if torch.iinfo(dtype).max >= ds.vocab_size - 1]
    if out not in fitting:
        raise ValueError(f"`out` must be one of {', '.join(fitting)} for a vocabulary of {ds.vocab_size}, got {out!r}")
    return out


def score_column(ds: Dataset, name: str) -> NDArray[np.float32]:
    """A column of float32 scores.

    Raises:
        ValueError: there is none of that name.
    """
    values = ds.column(name) if name in ds.columns else None
    if values is None or values.dtype != np.float32:
        scores = [column for column in ds.columns if ds.column(column).dtype == np.float32]
        raise ValueError(
            f"`columns` must be score columns of the data set ({', '.join(scores) or 'none'}), got {name!r}"
        )
    return values
