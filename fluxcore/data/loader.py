"""Batches of a data set in an order that can be resumed exactly, on any number of ranks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluxcore import _core
from fluxcore.data.bad_chunks import OnBadChunk, Substitutes
from fluxcore.data.batch import Batch, BatchMeta, Explanation
from fluxcore.data.batches import plan_batches
from fluxcore.data.dataset import Dataset
from fluxcore.data.loader_state import FORMAT, check_state, hash_subset, pin_data
from fluxcore.data.mixture import Mixture, part_by_source
from fluxcore.data.order import Order
from fluxcore.data.selection import Filter, as_filters, select_chunks
from fluxcore.data.stream import Buffers, Reading, Stream, check_out, score_column


class Loader:
    """Streams a data set's chunks in an order, reading ahead on C++ threads.

    `for tokens, targets, meta in loader` goes on at `loader.step` and ends after `len(loader)` batches; a loop that was
    left early goes on where it stopped, and one that ran to its end starts over. Tensors are the caller's to keep.
    The stream of global batches depends on data set, order, seed, mixture and global batch size alone, not on the world
    size: see `BatchPlan` for the ranks' shares.

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
        targets: also write the token that follows each; without, `targets` is [b, 0] and a batch half the bytes.
        pin: tokens and targets in page-locked memory, where CUDA is there.
        columns: names of float32 columns to hand out in `meta.scores`.
        verify: check every chunk's CRC. None: as the data set was opened.
        prefetch: batches in work ahead of the one in use; when half of them are left, more are asked for. 1 at least.
        threads: C++ threads that read, beside the caller's, which helps while it would wait; with 0 nothing is read
            ahead. None: 2, or 1 where the process may use no more than two cores.
        look_ahead: chunks beyond those in work that the kernel is told to read, so that a cold disk is kept busy.
        drop_behind: take chunks out of memory once they are copied, where the set does not fit in half of what is free.
        subset: chunk ids, each once; the order, its ranks and percentiles run over these alone.
        where: filters by column that chunks must pass, all of them; like a subset, but described by plain values.
        mix: weights of the sources, by name, of which only the proportions matter: every batch takes whole rows of
            each, none more than one row away from its share of the run so far. Each source goes through `order` on its
            own and begins its next epoch when it runs out; `epochs` counts the chunks of all. See `set_weights`.
        on_bad_chunk: what to do about a chunk that is not what was written, where `verify` finds out. "raise"; "skip":
            the next sound chunk that the run may read, of the same source where they are mixed, takes its rows, in this
            epoch and later, which is logged, kept in the state, and told by `bad_chunks`; or a function that gets the
            CorruptShardError and returns the chunk to take, None for the one of "skip", or raises.
    Raises:
        TypeError: `where` is not made of filters.
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
        targets: bool = True,
        pin: bool = False,
        columns: Sequence[str] = (),
        verify: bool | None = None,
        prefetch: int = 4,
        threads: int | None = None,
        look_ahead: int = 1024,
        drop_behind: bool = False,
        subset: NDArray[np.int64] | None = None,
        where: Filter | Sequence[Filter] = (),
        mix: Mapping[str, float] | None = None,
        on_bad_chunk: OnBadChunk = "raise",
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        if threads is None:
            threads = 1 if len(os.sched_getaffinity(0)) <= 2 else 2
        for name, value in (("prefetch", prefetch), ("threads", threads), ("look_ahead", look_ahead)):
            if value < 0:
                raise ValueError(f"`{name}` must be >= 0, got {value}")
        self.ds, self.order, self.seed = ds, order, seed
        self.rank, self.world_size = rank, world_size
        self._columns = {name: score_column(ds, name) for name in columns}
        self._where = as_filters(where)
        chunks = select_chunks(ds, subset, self._where)
        parts = None if mix is None else part_by_source(ds, mix, chunks)
        groups = list(parts.values()) if parts is not None else [] if chunks is None else [chunks]
        self._substitutes = Substitutes(on_bad_chunk, len(ds), groups)
        self._plan = plan_batches(
            (len(ds) if chunks is None else len(chunks)) if parts is None else sum(map(len, parts.values())),
            global_batch_size=global_batch_size,
            rank=rank,
            world_size=world_size,
            epochs=epochs,
            total_steps=total_steps,
            drop_last=drop_last,
        )
        positions = self._plan.positions
        self._mixture: Mixture | None = None
        if mix is None or parts is None:
            self._order = order.compile(ds, seed=seed, subset=chunks, positions=positions)
        else:
            self._mixture = Mixture(ds, order, parts, mix, seed=seed, batch=global_batch_size, positions=positions)
        self._reading = Reading(
            out=check_out(out, ds),
            pin=pin,
            verify=ds.verify_reads if verify is None else verify,
            prefetch=prefetch,
            threads=threads,
            look_ahead=look_ahead,
            drop_behind=drop_behind,
            targets=targets,
        )
        self._fixed = self._describe_run(hash_subset(None if subset is None else np.sort(subset).astype(np.uint64)))
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
        """Epoch of the next batch's first row; of a mixture and a paced order, the rows so far over the chunks."""
        return self._step * self._plan.global_batch_size // self._compiled.epoch_size

    @property
    def bad_chunks(self) -> dict[int, int]:
        """Chunks that were not what was written so far, of this rank and of the state, and what takes their rows."""
        return self._substitutes.as_dict()

    @property
    def _compiled(self) -> _core.Order:
        return self._order if self._mixture is None else self._mixture.order

    def __iter__(self) -> Iterator[Batch]:
        if self._ran_out:
            self.rewind()
        return self._every(1)

    def _every(self, stride: int) -> Iterator[Batch]:
        """Every `stride`-th batch from the next one on."""
        end = len(self)
        while (step := self._step) < end:
            ids, tokens, targets = self._next(stride)
            self._step = min(step + stride, end)
            yield Batch(tokens, targets, BatchMeta(ids, self.ds._core, self._columns))
        self._ran_out = True
        self._stream = None

    def rewind(self) -> None:
        """Go back to the first batch.

        Raises:
            ValueError: a state was loaded into a mixture, which therefore no longer knows its first weights.
        """
        self._check_known(0)
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
        """The position in the run, and what the run is: plain values.

        As JSON below 1 KiB, and 16 bytes a mixed source, and the numbers of the bad chunks, at most 1000.
        Batches that were read ahead and not handed out are not counted.
        """
        state = {**self._fixed, "step": self._step, "epoch": self.epoch}
        if self._substitutes.given:
            state["bad_chunks"] = self._substitutes.state()
        return state if self._mixture is None else state | {"mixture": self._mixture.state(self._step)}

    def _describe_run(self, subset_hash: str | None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **pin_data(self.ds.manifest, [*self.order.columns, *(each.column for each in self._where)]),
            "subset": subset_hash,
            "where": [each.to_dict() for each in self._where],
            "mix": None if self._mixture is None else self._mixture.hash,
            "order": self.order.to_dict(),
            "positions": self._plan.positions if self.order.spans_run else None,
            "seed": self.seed,
            "global_batch_size": self._plan.global_batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken, on any rank and world size.

        Raises:
            ValueError: `state` is of another data set, order, seed, batch size, selection or mixture, or past the end
                of this run. Columns may have been added since.
        """
        step = check_state(state, self._fixed, len(self))
        self._substitutes.load(state)
        if self._mixture is not None:
            self._mixture.load(state.get("mixture", {}), step)
        self._move_to(step)

    def set_weights(self, weights: Mapping[str, float], at_step: int | None = None) -> None:
        """Mix the sources in other proportions from a step on; every rank must be told the same.

        The state holds the weights that are in force and those to come. What was read ahead under other weights is read
        again.

        Args:
            weights: of every source of `mix`; 0 leaves one out.
            at_step: first batch that they hold for, at least `step` and the last change so far. None: the next batch.
        Raises:
            ValueError: there is no `mix`, a step that is past or beyond the run, a source that is missing or unknown,
                weights that are negative, NaN or all 0, or an order that is planned over the whole run.
        """
        if self._mixture is None:
            raise ValueError("`mix` must be given to the loader for its weights to be set")
        step = self._step if at_step is None else at_step
        if not self._step <= step < len(self):
            raise ValueError(f"`at_step` must be within [{self._step}, {len(self)}), the batches left, got {step}")
        self._mixture.set_weights(weights, step)
        self._stream = None

    def explain(self, step: int) -> Explanation:
        """Which chunks make global batch `step`, and why: epochs, positions, and the scores that the order goes by.

        Raises:
            ValueError: the run has no such batch, or its weights are not known any more.
        """
        if not 0 <= step < len(self):
            raise ValueError(f"`step` must be within [0, {len(self)}), got {step}")
        self._check_known(step)
        first, rows = self._plan.global_rows(step)
        ids = self._substitutes.replace(self._compiled.chunks_at(first, rows)).astype(np.int64)
        if self._mixture is None:
            epoch, position = np.divmod(np.arange(first, first + rows), self._compiled.epoch_size)
        else:
            epoch, position = self._mixture.places(first, rows)
        columns = self._columns | {name: self.ds.column(name) for name in self.order.columns}
        return Explanation(step, ids, epoch, position, {name: values[ids] for name, values in columns.items()})

    def _next(self, stride: int) -> Buffers:
        stream = self._stream
        # A stream is at another step after the loader was moved, and at none after a fork.
        if stream is None or stream.step != self._step or stream.stride != stride:
            stream = Stream(self.ds, self._compiled, self._plan, self._step, self._reading, self._substitutes, stride)
            self._stream = stream
        try:
            return stream.next()
        except BaseException:
            self._stream = None
            raise

    def _check_known(self, step: int) -> None:
        if self._mixture is not None and step < self._mixture.first_step:
            raise ValueError(
                f"`step` must be >= {self._mixture.first_step}, where the weights of the loaded state begin, got {step}"
                "\n\nA state holds no earlier weights: make a new loader to see the run's beginning."
            )

    def _move_to(self, step: int) -> None:
        self._step = step
        self._ran_out = False
        self._stream = None

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self._arguments, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state["arguments"])
        self.load_state_dict(state["state"])
