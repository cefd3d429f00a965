"""A loader under `DataLoader`, `StatefulDataLoader` and in the checkpoints of accelerate."""

import pickle

import pytest
import torch
from accelerate import Accelerator
from support.data_sets import write_data_set
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from fluxcore.data import Loader, Order
from fluxcore.integrations.accelerate import register_loader
from fluxcore.integrations.torch_data import LoaderDataset

pytestmark = [
    # Of torchdata 0.11, which still calls what torch 2.13 is about to drop.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    # Of torch, on a machine with one core, and of newer Pythons, where workers are forked.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("data") / "set")


def make(ds, **options):
    """12 batches over two epochs; the last is short."""
    options = {"global_batch_size": 9, "epochs": 2, "drop_last": False, "out": "int64"} | options
    return Loader(ds, Order.shuffled(), **options)


def stateful(ds, workers=0, **options):
    return StatefulDataLoader(LoaderDataset(make(ds, **options)), batch_size=None, num_workers=workers)


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.meta.chunk_ids, other.meta.chunk_ids)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_loader_again_and_again(ds, workers):
    batches = DataLoader(LoaderDataset(make(ds)), batch_size=None, num_workers=workers)
    assert len(batches) == 12
    for _ in range(2):
        same(list(batches), list(make(ds)))
    next(iter(batches))
    same(list(batches), list(make(ds)))  # an iteration that was left does not go on


def test_a_worker_reads_its_own_batches_alone(ds, monkeypatch):
    dataset = LoaderDataset(make(ds))
    info = type("Info", (), {"id": 1, "num_workers": 4})()
    monkeypatch.setattr("fluxcore.integrations.torch_data.get_worker_info", lambda: info)
    same(list(dataset), list(make(ds))[1::4])
    info.id, info.num_workers = 12, 13
    assert list(dataset) == []


@pytest.mark.parametrize(("workers", "steps"), [(0, range(13)), (2, (1, 6, 11))])
def test_resume_under_a_stateful_data_loader(ds, workers, steps):
    whole = list(make(ds))
    for step in steps:
        one = stateful(ds, workers)
        iterator = iter(one)
        same([next(iterator) for _ in range(step)], whole[:step])
        state = pickle.loads(pickle.dumps(one.state_dict()))
        two = stateful(ds, workers)
        two.load_state_dict(state)
        same(list(two), whole[step:])
        same(list(two), whole)


def test_each_rank_reads_its_share(ds):
    shares = [list(stateful(ds, rank=rank, world_size=3)) for rank in range(3)]
    for step, batch in enumerate(make(ds)):
        assert torch.equal(torch.cat([share[step].tokens for share in shares]), batch.tokens)


def test_a_state_of_another_run_and_a_loader_that_was_moved_are_refused(ds):
    one = stateful(ds)
    next(iter(one))
    two = stateful(ds, seed=1)
    two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="`state` must be of this run: its 'seed' is 0"):
        next(iter(two))
    loader = make(ds)
    loader.skip(3)
    with pytest.raises(ValueError, match="`loader` must be at its beginning, its next step is 3"):
        LoaderDataset(loader)


def test_accelerate_keeps_the_loader_in_its_checkpoints(ds, tmp_path):
    accelerator = Accelerator(cpu=True)
    loader = register_loader(accelerator, make(ds))
    whole = list(make(ds))
    for _, batch in zip(range(4), loader, strict=False):
        last = batch
    same([last], whole[3:4])
    accelerator.save_state(str(tmp_path / "checkpoint"))
    list(loader)
    accelerator.load_state(str(tmp_path / "checkpoint"))
    same(list(loader), whole[4:])
    with pytest.raises(
        ValueError, match="`loader` must be that of rank 0 of 1, as the accelerator counts, it is of rank 1"
    ):
        register_loader(accelerator, make(ds, rank=1, world_size=3))
