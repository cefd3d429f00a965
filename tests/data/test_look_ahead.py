"""What a stream asks of the C++ loader, which announces batches to the kernel before it reads them."""

import numpy as np
import pytest
from support.data_sets import write_data_set

from fluxcore.data import Loader, Order, stream


class Recorder:
    """Stands for the C++ loader: keeps what is planned, and hands it out unread."""

    def __init__(self, *_, in_work, sight, drop_behind, **__):
        self.in_work, self.sight, self.drop_behind = in_work, sight, drop_behind
        self.planned, self.left = [], []
        Recorder.last = self

    def plan(self, batches):
        self.planned += batches

    def next(self):
        self.left.append(len(self.planned) - len(self.left))
        return np.zeros(1, np.int64), np.zeros((1, 1), np.int64), None


@pytest.mark.parametrize("look_ahead", [1, 8, 20, 1000])
@pytest.mark.parametrize(("world_size", "stride"), [(1, 1), (2, 1), (1, 3)])
def test_batches_are_planned_before_they_come_into_sight(ds, monkeypatch, look_ahead, world_size, stride):
    monkeypatch.setattr(stream._core, "Loader", Recorder)
    monkeypatch.setattr(stream, "_PLANNED", 3)
    options = {"global_batch_size": 4, "world_size": world_size, "rank": world_size - 1, "epochs": 5}
    loader = Loader(ds, Order.shuffled(), look_ahead=look_ahead, prefetch=2, drop_last=False, **options)
    for _ in loader._every(stride):
        pass
    recorder = Recorder.last
    steps = range(0, len(loader), stride)
    assert recorder.planned == [loader._plan.rank_rows(step) for step in steps]
    assert (recorder.in_work, recorder.sight) == (2, -(-look_ahead // (4 // world_size)))
    wanted = recorder.in_work + recorder.sight
    for given, left in enumerate(recorder.left):
        assert left >= min(wanted, len(steps) - given)
        assert left <= max(wanted + 3, 1)


@pytest.mark.parametrize("options", [{"look_ahead": 0}, {"threads": 0}], ids=str)
def test_nothing_is_announced_where_nothing_is_to_be_read_ahead(ds, monkeypatch, options):
    monkeypatch.setattr(stream._core, "Loader", Recorder)
    list(Loader(ds, Order.shuffled(), global_batch_size=5, **options))
    assert Recorder.last.sight == 0


@pytest.mark.parametrize("look_ahead", [0, 3, 1000])
def test_batches_do_not_depend_on_it(tmp_path, look_ahead):
    ds = write_data_set(tmp_path / "set")
    for order in (Order.shuffled(), Order.sorted("original_index"), Order.paced("score")):
        options = {"global_batch_size": 6, "epochs": 2}
        plain = [batch.tokens.tolist() for batch in Loader(ds, order, threads=0, **options)]
        ours = [batch.tokens.tolist() for batch in Loader(ds, order, look_ahead=look_ahead, **options)]
        assert ours == plain


@pytest.mark.parametrize("drop_behind", [False, True])
def test_the_loader_is_told_whether_to_drop_what_was_read(ds, monkeypatch, drop_behind):
    options = {"global_batch_size": 5, "drop_behind": drop_behind}
    plain = [batch.tokens.tolist() for batch in Loader(ds, Order.shuffled(), global_batch_size=5)]
    assert [batch.tokens.tolist() for batch in Loader(ds, Order.shuffled(), **options)] == plain
    monkeypatch.setattr(stream._core, "Loader", Recorder)
    list(Loader(ds, Order.shuffled(), **options))
    assert Recorder.last.drop_behind is drop_behind


def test_less_than_none_is_refused(ds):
    with pytest.raises(ValueError, match="`look_ahead` must be >= 0, got -1"):
        Loader(ds, Order.shuffled(), global_batch_size=5, look_ahead=-1)
