"""A loader inside `torch.utils.data`: for code that wants a `DataLoader`, or torchdata's `StatefulDataLoader`."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from fluxcore.data.batch import Batch
from fluxcore.data.loader import Loader


class LoaderDataset(IterableDataset[Batch]):
    """The batches of a loader, in its order with any number of workers.

    Give it to `DataLoader(dataset, batch_size=None)`: a batch is whole, and nothing must collate it. Worker w of n
    reads the batches w, w + n, ... and no others, and the data loader takes from the workers in turn. A loader reads
    ahead on threads of its own, so that no worker is needed for speed.

    Under torchdata's `StatefulDataLoader` a run resumes exactly, in the middle of an epoch too, with as many workers as
    it had. Each iteration that does not resume goes over the whole run, all `epochs` of the loader.

    Args:
        loader: at its beginning. It says which rank's share is read; the data loader must not split it again, as
            `accelerate.Accelerator.prepare` would. Where there are workers its weights can be set before they start
            alone.
    Raises:
        ValueError: `loader` was moved.
    """

    def __init__(self, loader: Loader) -> None:
        if loader.step:
            raise ValueError(
                f"`loader` must be at its beginning, its next step is {loader.step}"
                "\n\nResume by the state of the data loader, which this data set is a part of."
            )
        self.loader = loader
        self._resumed = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # Now, not at the first batch: a state may be asked for before.
        if not self._resumed:
            self.loader.rewind()
            self.loader.skip(min(worker, len(self.loader)))
        self._resumed = False
        batches = self.loader._every(workers)
        return batches if info is None else map(_look_up, batches)

    def state_dict(self) -> dict[str, Any]:
        """The state of the loader here: with workers, its next step is the next one of this worker."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where `state` was taken, by the same worker of as many.

        Raises:
            ValueError: it is of another run, see `Loader.load_state_dict`.
        """
        self.loader.load_state_dict(state)
        self._resumed = True


def _look_up(batch: Batch) -> Batch:
    """The batch with its metadata at hand: in the thread that sends it off, an error would be lost, and the batch."""
    batch.meta.__getstate__()
    return batch
