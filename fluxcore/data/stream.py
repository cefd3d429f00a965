"""Batches read ahead by the C++ loader, into tensors that nobody else holds."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxcore import _core
from fluxcore.data.batches import BatchPlan
from fluxcore.data.dataset import Dataset

OUT_TYPES = {name: getattr(torch, name) for name in ("uint8", "uint16", "uint32", "int32", "int64")}

Buffers = tuple[Tensor, Tensor, Tensor]
"""Facts [5, b] int64 (chunk id, source, document id, document offset, valid length), tokens and targets [b, T]."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How batches are read; `Loader` describes the fields."""

    out: str
    pin: bool
    verify: bool
    prefetch: int
    threads: int


class Stream:
    """The batches of a plan from a step on, `prefetch` of them in work.

    A batch is written once, by a thread of the C++ loader, straight into fresh tensors; from `next` on they are the
    caller's. Threads belong to the process that made the stream: see `in_this_process`.
    """

    def __init__(self, ds: Dataset, order: _core.Order, plan: BatchPlan, step: int, reading: Reading) -> None:
        self.step = step
        self._chunk_tokens = ds.chunk_tokens
        self._plan = plan
        self._out = reading.out
        self._pin = reading.pin and torch.cuda.is_available()
        self._submitted = step
        self._end = plan.steps
        self._process = os.getpid()
        self._core = _core.Loader(ds._core, order, reading.verify, reading.threads)
        for _ in range(max(reading.prefetch, 1) if reading.threads else 1):
            self._submit()

    def in_this_process(self) -> bool:
        """Whether the threads are here, and not in the parent of a fork."""
        return self._process == os.getpid()

    def next(self) -> Buffers:
        """Wait for the next batch.

        Raises:
            CorruptShardError: a chunk of it is not what was written.
        """
        buffers: Buffers = self._core.next()
        self.step += 1
        self._submit()
        return buffers

    def _submit(self) -> None:
        """Ask for the next batch that was not asked for, unless the plan is at its end."""
        if self._submitted == self._end:
            return
        position, rows = self._plan.rank_rows(self._submitted)
        facts = torch.empty((5, rows), dtype=torch.int64)
        shape, dtype = (rows, self._chunk_tokens), OUT_TYPES[self._out]
        tokens = torch.empty(shape, dtype=dtype, pin_memory=self._pin)
        targets = torch.empty(shape, dtype=dtype, pin_memory=self._pin)
        self._core.submit(
            position, rows, facts.data_ptr(), self._out, tokens.data_ptr(), targets.data_ptr(), (facts, tokens, targets)
        )
        self._submitted += 1


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
