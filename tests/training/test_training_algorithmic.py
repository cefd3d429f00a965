from itertools import chain

import pytest
import torch

from fluxcore.training.algorithmic_data import Operation, is_prime, modular_rows, parity_rows, split_rows
from fluxcore.training.algorithmic_models import OneHotLinear, make_classifier
from fluxcore.training.config import ConfigError
from fluxcore.training.row_loader import RowLoader


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        (Operation.add, lambda a, b: (a + b) % 5),
        (Operation.subtract, lambda a, b: (a - b) % 5),
        (Operation.multiply, lambda a, b: (a * b) % 5),
    ],
)
def test_all_pairs_and_their_results(operation, result):
    rows = modular_rows(operation, 5)
    pairs = [tuple(pair) for pair in rows.inputs.tolist()]
    assert pairs == [(a, b) for a in range(5) for b in range(5)]
    assert rows.targets.tolist() == [result(a, b) for a, b in pairs]


def test_parity_depends_on_the_first_bits_alone():
    rows = parity_rows(200, 3, 6, seed=1)
    assert rows.inputs.shape == (200, 9)
    assert set(rows.inputs.flatten().tolist()) == {0, 1}
    assert rows.targets.tolist() == [sum(bits[:3]) % 2 for bits in rows.inputs.tolist()]
    assert len({tuple(bits) for bits in rows.inputs.tolist()}) == 200
    assert not torch.equal(rows.inputs, parity_rows(200, 3, 6, seed=2).inputs)
    assert len({tuple(bits) for bits in parity_rows(16, 1, 3, seed=0).inputs.tolist()}) == 16  # all that there are


def test_a_split_is_of_all_rows_and_the_same_for_a_seed():
    rows = modular_rows(Operation.add, 113)
    train, test = split_rows(rows, 0.4, seed=3)
    assert (len(train.targets), len(test.targets)) == (5107, 7662)
    seen = [tuple(pair) for part in (train, test) for pair in part.inputs.tolist()]
    assert len(set(seen)) == 113**2
    assert torch.equal(split_rows(rows, 0.4, seed=3)[0].inputs, train.inputs)
    assert not torch.equal(split_rows(rows, 0.4, seed=4)[0].inputs, train.inputs)
    with pytest.raises(ConfigError, match=r"`train_fraction` = 0.1 of 4 rows leaves 0 to train on and 4 to test on"):
        split_rows(modular_rows(Operation.add, 2), 0.1, seed=0)


def test_primes():
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert is_prime(113)


def test_one_hot_linear_is_linear_on_one_hot_inputs():
    layer = OneHotLinear(7, 3, 5)
    tokens = torch.randint(7, (11, 3))
    dense = torch.nn.functional.one_hot(tokens, 7).flatten(1).float()
    upstream = torch.randn(11, 5)
    (expected,) = torch.autograd.grad((dense @ layer.weight * upstream).sum(), layer.weight)
    out = layer(tokens)
    (gradient,) = torch.autograd.grad((out * upstream).sum(), layer.weight)
    torch.testing.assert_close(out, dense @ layer.weight)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("name", "count"), [("mlp", 226 * 200 + 200 * 200 + 200 * 113), ("transformer", None)])
def test_classifiers(name, count):
    model = make_classifier(name, vocabulary=113, places=2, classes=113, overrides={})
    tokens = torch.tensor([[1, 2], [2, 1]])
    logits = model(tokens)
    assert logits.shape == (2, 113)
    assert not torch.equal(logits[0], logits[1])  # the places differ
    if count is not None:
        assert sum(parameter.numel() for parameter in model.parameters()) == count
    with pytest.raises(ValueError, match="`model` must be one of mlp, transformer for this task, got 'micro'"):
        make_classifier("micro", vocabulary=113, places=2, classes=113, overrides={})


def loader(**options):
    rows = modular_rows(Operation.add, 5)
    return RowLoader(rows, **{"batch_rows": 7, "steps": 8, "seed": 1, **options})


def pairs(batches):
    return [[tuple(pair) for pair in batch.inputs.tolist()] for batch in batches]


def test_epochs_are_shuffled_and_no_row_comes_twice_in_one():
    batches = pairs(loader())
    assert [len(batch) for batch in batches] == [7] * 8
    first, second = (list(chain(*batches[i : i + 3])) for i in (0, 3))
    assert len(set(first)) == len(set(second)) == 21
    assert first != second
    assert set(first) != set(second)  # each leaves out others
    assert pairs(loader()) == batches
    assert pairs(loader(seed=2)) != batches


def test_a_resumed_loader_goes_on_and_ranks_share_a_batch():
    whole = pairs(loader())
    begun = loader()
    iterator = iter(begun)
    head = pairs([next(iterator) for _ in range(4)])
    resumed = loader()
    resumed.load_state_dict(begun.state_dict())
    assert head + pairs(resumed) == whole
    ranks = [pairs(loader(rank=rank, world_size=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in whole]


def test_a_full_batch_is_all_rows_in_their_order():
    assert pairs(loader(batch_rows=None, steps=2)) == [[(a, b) for a in range(5) for b in range(5)]] * 2
