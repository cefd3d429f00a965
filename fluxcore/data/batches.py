"""Which rows of the order make a batch, and which of them are a rank's."""

from dataclasses import dataclass

from fluxcore.data.argument_checks import whole

MAX_POSITIONS = (1 << 63) - 1  # rows of a run are counted in 64 bits, with a sign
MAX_BATCH = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Cuts the positions of a run into global batches, and these into the shares of the ranks.

    Global batch t is the positions [t * B, (t + 1) * B), whatever the world size, and the ranks' shares laid one after
    another are the global batch. Positions run on from epoch to epoch, so that only the last batch of a run can be
    short. A short batch of s rows gives rank r the rows [s * r // W, s * (r + 1) // W): with fewer rows than ranks some
    get none, yet all ranks take the same number of steps.
    """

    positions: int
    global_batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def steps(self) -> int:
        """Global batches in the run."""
        whole, rest = divmod(self.positions, self.global_batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def global_rows(self, step: int) -> tuple[int, int]:
        """First position of a global batch, and its number of rows."""
        first = step * self.global_batch_size
        return first, min(self.global_batch_size, self.positions - first)

    def rank_rows(self, step: int) -> tuple[int, int]:
        """First position of this rank's share of a global batch, and its number of rows."""
        first = step * self.global_batch_size
        rows = min(self.global_batch_size, self.positions - first)
        begin = rows * self.rank // self.world_size
        return first + begin, rows * (self.rank + 1) // self.world_size - begin


def plan_batches(
    chunks: int,
    *,
    global_batch_size: int,
    rank: int,
    world_size: int,
    epochs: int | None,
    total_steps: int | None,
    drop_last: bool,
) -> BatchPlan:
    """Check the sizes of a run and plan its batches; see `Loader` for the arguments.

    Args:
        chunks: chunks that a pass over the data visits.

    Raises:
        TypeError: a size that is no integer.
        ValueError: a size that cannot be, or a run without a batch.
    """
    global_batch_size = whole(global_batch_size, "global_batch_size", low=1, high=MAX_BATCH)
    world_size = whole(world_size, "world_size", low=1, high=MAX_BATCH)
    rank = whole(rank, "rank", low=-MAX_BATCH, high=MAX_BATCH)
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must be within [0, {world_size}) for `world_size` = {world_size}, got {rank}")
    if global_batch_size % world_size:
        raise ValueError(
            f"`global_batch_size` must be divisible by `world_size` = {world_size}, got {global_batch_size}"
            f"\n\nThe nearest size that is: {-(-global_batch_size // world_size) * world_size}"
        )
    if epochs is not None and total_steps is not None:
        raise ValueError(f"give `epochs` or `total_steps`, not both; got {epochs} and {total_steps}")
    if epochs is not None:
        epochs = whole(epochs, "epochs", low=1, high=MAX_POSITIONS // max(chunks, 1))
    if total_steps is not None:
        total_steps = whole(total_steps, "total_steps", low=1, high=MAX_POSITIONS // global_batch_size)
    if chunks == 0:
        raise ValueError(
            "the data set, or what `subset`, `where` and `mix` leave, must have at least one chunk, got none"
        )
    positions = chunks * (epochs or 1) if total_steps is None else total_steps * global_batch_size
    plan = BatchPlan(positions, global_batch_size, rank, world_size, drop_last)
    if plan.steps == 0:
        raise ValueError(
            f"`global_batch_size` must be <= the {positions} chunks of the run, got {global_batch_size}"
            "\n\nWith drop_last=False the run is one short batch."
        )
    return plan
