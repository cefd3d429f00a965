"""Batches read ahead by the C++ loader, into tensors that nobody else holds."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluxcore import _core
from fluxcore.data.bad_chunks import Substitutes
from fluxcore.data.batches import BatchPlan
from fluxcore.data.dataset import Dataset
from fluxcore.data.facts import Facts, FactsMemory
from fluxcore.errors import CorruptShardError

OUT_TYPES = {name: getattr(torch, name) for name in ("uint8", "uint16", "uint32", "int32", "int64")}

Buffers = tuple[Facts, Tensor, Tensor]
"""Facts, tokens and targets [b, T]."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How batches are read; `Loader` describes the fields."""

    out: str
    pin: bool
    verify: bool
    prefetch: int
    threads: int
    look_ahead: int
    targets: bool


class Stream:
    """Every `stride`-th batch of a plan from a step on, `prefetch` of them in work.

    A batch is written once, by a thread of the C++ loader, straight into tensors that nobody else has; from `next` on
    they are the caller's, and when the caller has let go of them their memory serves a later batch. Threads belong to
    the process that made the stream: see `in_this_process`.
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
        self.stride = stride
        self._shards = ds._core
        self._order = order
        self._substitutes = substitutes
        self._verify = reading.verify
        self._chunk_tokens = ds.chunk_tokens
        self._plan = plan
        self._out = reading.out
        self._targets = reading.targets
        self._pin = reading.pin and torch.cuda.is_available()
        self._submitted = step
        self._announced = step + stride  # the first batch that is neither in work nor announced
        rows = max(plan.global_batch_size // plan.world_size, 1)
        self._windows = -(-reading.look_ahead // rows) if reading.threads else 0
        self._end = plan.steps
        self._process = os.getpid()
        # Tokens and targets of the batches in work, the one that was handed out and the one before it.
        kept = 2 * (max(reading.prefetch, 1) + 2)
        self._rows = rows
        self._facts = FactsMemory(rows)
        self._nothing = torch.empty((rows, 0), dtype=OUT_TYPES[self._out])
        self._memory = _core.BatchMemory(rows, ds.chunk_tokens, reading.out, kept)
        self._core = _core.Loader(ds._core, order, reading.verify, reading.threads)
        for _ in range(max(reading.prefetch, 1) if reading.threads else 1):
            self._submit()

    def in_this_process(self) -> bool:
        """Whether the threads are here, and not in the parent of a fork."""
        return self._process == os.getpid()

    def next(self) -> Buffers:
        """Wait for the next batch.

        Raises:
            CorruptShardError: a chunk of it is not what was written, and nothing stands for it.
        """
        try:
            buffers: Buffers = self._core.next()
            again = bool(self._substitutes) and self._substitutes.affects(buffers[0].array()[0])
        except CorruptShardError as error:
            self._substitutes.add(error)
            again = True
        if again:
            buffers = self._read_with_substitutes()
        self.step += self.stride
        self._submit()
        return buffers

    def _submit(self) -> None:
        """Ask for the next batch that was not asked for, unless the plan is at its end."""
        if self._submitted >= self._end:
            return
        self._request(self._core, *self._plan.rank_rows(self._submitted), self._announce())
        self._submitted += self.stride

    def _announce(self) -> list[tuple[int, int]]:
        """Rows that have come into sight: at first all of them, then those of a quarter of the batches in sight."""
        if not self._windows:
            return []
        reach = min(self._submitted + self._windows * self.stride + 1, self._end)
        in_sight = -(-(reach - self._announced) // self.stride)
        if in_sight <= 0 or (in_sight < self._windows // 4 and reach < self._end):
            return []
        rows = [self._plan.rank_rows(self._announced + window * self.stride) for window in range(in_sight)]
        self._announced += in_sight * self.stride
        return rows

    def _request(self, core: _core.Loader, position: int, rows: int, ahead: Sequence[tuple[int, int]] = ()) -> None:
        facts, facts_address = self._facts.take(rows)
        tokens = self._empty(rows)
        targets = self._empty(rows) if self._targets else self._no_targets(rows)
        addresses = (facts_address, self._out, tokens.data_ptr(), targets.data_ptr() if self._targets else 0)
        core.submit(position, rows, *addresses, (facts, tokens, targets), ahead)

    def _empty(self, rows: int) -> Tensor:
        if self._pin:  # PyTorch itself uses page-locked memory again
            return torch.empty((rows, self._chunk_tokens), dtype=OUT_TYPES[self._out], pin_memory=True)
        return torch.from_numpy(self._memory.take(rows))

    def _no_targets(self, rows: int) -> Tensor:
        return self._nothing if rows == self._rows else self._nothing[:rows]

    def _read_with_substitutes(self) -> Buffers:
        """The next batch, from the chunks that stand for bad ones; one of them may turn out to be bad too."""
        position, rows = self._plan.rank_rows(self.step)
        ids = self._order.chunks_at(position, rows)
        while True:
            order = _core.RankedOrder(self._substitutes.replace(ids), rows, [(0, rows, "forward", 1)], 0)
            core = _core.Loader(self._shards, order, self._verify, 0)
            self._request(core, 0, rows)
            try:
                buffers: Buffers = core.next()
                return buffers
            except CorruptShardError as error:
                self._substitutes.add(error)


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
