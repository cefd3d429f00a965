"""What a stream announces to the kernel: every batch once, some batches before it is read."""

import pytest
from support.data_sets import write_data_set

from fluxcore.data import Loader, Order, stream


class Recorder:
    """Stands for the C++ loader: keeps what is asked for, and hands it out unread."""

    def __init__(self, *_):
        self.requests = []
        self.owners = []
        Recorder.last = self

    def submit(self, position, rows, *rest):
        *_, owner, ahead = rest
        self.requests.append(((position, rows), ahead))
        self.owners.append(owner)

    def next(self):
        return self.owners.pop(0)


@pytest.mark.parametrize("look_ahead", [1, 8, 20, 1000])
@pytest.mark.parametrize(("world_size", "stride"), [(1, 1), (2, 1), (1, 3)])
def test_every_batch_is_announced_once_and_in_time(ds, monkeypatch, look_ahead, world_size, stride):
    monkeypatch.setattr(stream._core, "Loader", Recorder)
    options = {"global_batch_size": 4, "world_size": world_size, "rank": world_size - 1, "drop_last": False}
    loader = Loader(ds, Order.shuffled(), look_ahead=look_ahead, prefetch=2, **options)
    for _ in loader._every(stride):
        pass
    requests = Recorder.last.requests
    read = [place for place, _ in requests]
    assert len(read) == -(-13 // stride)
    announced = [place for _, ahead in requests for place in ahead]
    assert announced == read[1:]
    windows = -(-look_ahead // (4 // world_size))
    seen = 1
    for number, (_, ahead) in enumerate(requests):
        seen += len(ahead)
        in_sight = min(number + 1 + windows, len(read))
        assert in_sight - max(windows // 4 - 1, 0) <= seen <= in_sight
        assert seen == in_sight or in_sight < len(read)


@pytest.mark.parametrize("options", [{"look_ahead": 0}, {"threads": 0}], ids=str)
def test_nothing_is_announced_where_nothing_is_to_be_read_ahead(ds, monkeypatch, options):
    monkeypatch.setattr(stream._core, "Loader", Recorder)
    list(Loader(ds, Order.shuffled(), global_batch_size=5, **options))
    assert all(ahead == [] for _, ahead in Recorder.last.requests)


@pytest.mark.parametrize("look_ahead", [0, 3, 1000])
def test_batches_do_not_depend_on_it(tmp_path, look_ahead):
    ds = write_data_set(tmp_path / "set")
    for order in (Order.shuffled(), Order.sorted("original_index"), Order.paced("score")):
        options = {"global_batch_size": 6, "epochs": 2}
        plain = [batch.tokens.tolist() for batch in Loader(ds, order, threads=0, **options)]
        ours = [batch.tokens.tolist() for batch in Loader(ds, order, look_ahead=look_ahead, **options)]
        assert ours == plain


def test_less_than_none_is_refused(ds):
    with pytest.raises(ValueError, match="`look_ahead` must be >= 0, got -1"):
        Loader(ds, Order.shuffled(), global_batch_size=5, look_ahead=-1)
