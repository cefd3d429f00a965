"""A loader in the checkpoints of Hugging Face `accelerate`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fluxcore.data.loader import Loader


def register_loader(accelerator: "Accelerator", loader: "Loader") -> "Loader":
    """Let `accelerator.save_state` keep where the loader is, and `load_state` bring it back; returns the loader.

    The state of the main process is that of all, since it does not depend on the rank: a run may go on with another
    number of processes. Do not `prepare` the loader too: it reads this process's share already, and would be split
    again. Batches are on the CPU; move them with `accelerator.device`.

    Args:
        accelerator: of this process.
        loader: made with `rank=accelerator.process_index` and `world_size=accelerator.num_processes`.
    Raises:
        ValueError: it was made with others.
    """
    expected = (accelerator.process_index, accelerator.num_processes)
    if (loader.rank, loader.world_size) != expected:
        raise ValueError(
            f"`loader` must be that of rank {expected[0]} of {expected[1]}, as the accelerator counts, it is of rank"
            f" {loader.rank} of {loader.world_size}"
            "\n\nMake it with rank=accelerator.process_index, world_size=accelerator.num_processes."
        )
    accelerator.register_for_checkpointing(loader)
    return loader
