"""Memory of batches is used again, but never while anything of the caller's lies in it."""

import pytest
import torch

from fluxcore._core import BatchMemory
from fluxcore.data import Loader, Order

KEEPERS = {
    "the tensor": lambda tensor: tensor,
    "a view": lambda tensor: tensor.view(-1),
    "a slice": lambda tensor: tensor[1:, 2:3],
    "an element": lambda tensor: tensor[0, 0],
    "an array": lambda tensor: tensor.numpy(),
    "its storage": lambda tensor: tensor.untyped_storage(),
    "a detached tensor": lambda tensor: tensor.detach(),
    "a closure": lambda tensor: lambda: tensor,
}


def empty(memory, rows):
    return torch.from_numpy(memory.take(rows))


def test_a_block_is_given_out_again_when_it_is_free():
    memory = BatchMemory(4, 8, "int64", 2)
    tensor = empty(memory, 4)
    address = tensor.data_ptr()
    assert address % 64 == 0
    for rows in (4, 2, 0, 3):
        del tensor
        tensor = empty(memory, rows)
        assert (tuple(tensor.shape), tensor.dtype) == ((rows, 8), torch.int64)
        assert tensor.data_ptr() == (address if rows else 0)
    with pytest.raises(ValueError, match="`rows` must fit a block of 256 bytes, got 5"):
        memory.take(5)


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_what_shares_its_memory_keeps_a_block(keep):
    memory = BatchMemory(4, 8, "int64", 8)
    first = empty(memory, 4)
    address, kept = first.data_ptr(), keep(first)
    del first
    others = [empty(memory, 4) for _ in range(6)]
    assert address not in {other.data_ptr() for other in others}
    assert len({other.data_ptr() for other in others}) == 6
    del others, kept  # last, so that its block is the first to be taken
    assert empty(memory, 4).data_ptr() == address


def test_memory_outlives_what_gave_it_out():
    memory = BatchMemory(4, 8, "int32", 1)
    tensors = [empty(memory, 4).fill_(value) for value in range(5)]
    del memory
    assert [int(tensor.sum()) for tensor in tensors] == [0, 32, 64, 96, 128]


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_that_are_kept_stay_as_they_were(ds, threads):
    options = {"global_batch_size": 5, "epochs": 4, "out": "int64"}
    expected = [(b.tokens.clone(), b.targets.clone()) for b in Loader(ds, Order.shuffled(), **options, threads=0)]
    kept = {}
    for step, batch in enumerate(Loader(ds, Order.shuffled(), **options, threads=threads)):
        if step % 3 == 0:
            kept[step] = (batch.tokens[1:].view(-1), batch.targets.numpy())
    for step, (tokens, targets) in kept.items():
        assert torch.equal(tokens, expected[step][0][1:].view(-1))
        assert (targets == expected[step][1].numpy()).all()


def test_a_loop_uses_little_memory_again_and_again(ds):
    loader = Loader(ds, Order.shuffled(), global_batch_size=5, epochs=20, out="int64", prefetch=2)
    assert len({batch.tokens.data_ptr() for batch in loader}) <= 10
