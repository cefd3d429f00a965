import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.token_data import CHUNK_TOKENS, VOCAB_SIZE, write_documents
from torch import nn
from torch.nn.functional import cross_entropy

import fluxcore.data
from fluxcore.training.config import ConfigError
from fluxcore.training.language_model import token_sums
from fluxcore.training.split import chunk_keys, document_keys, mix, plan_run, sample_chunks, split_by_document
from fluxcore.training.validation import Validation


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return fluxcore.data.open(write_documents(tmp_path_factory.mktemp("data") / "d", documents=200))


def documents(ds, ids):
    return set(zip(ds.column("source")[ids].tolist(), ds.column("doc_id")[ids].tolist(), strict=True))


def places(ds, ids):
    columns = [ds.column(name)[ids].tolist() for name in ("source", "doc_id", "doc_offset")]
    return list(zip(*columns, strict=True))


def test_mix_is_splitmix64():
    # First outputs of the published generator for the seeds 0 and 1234567.
    assert mix(np.array([0], np.uint64))[0] == 0xE220A8397B1DCDAF
    assert mix(np.array([1234567], np.uint64))[0] == 6457827717110365317


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_no_document_is_on_both_sides(ds, seed):
    training, held_out = split_by_document(ds, 0.2, seed)
    assert sorted([*training, *held_out]) == list(range(len(ds)))
    assert not documents(ds, training) & documents(ds, held_out)
    assert 20 <= len(documents(ds, held_out)) <= 60  # 40 +- 3.5 standard deviations


def test_the_split_follows_the_seed_and_not_the_storage_order(ds, tmp_path):
    turned = fluxcore.data.open(write_documents(tmp_path / "turned", documents=200, reverse=True))
    held = [documents(ds, split_by_document(ds, 0.2, seed)[1]) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    assert documents(turned, split_by_document(turned, 0.2, 0)[1]) == held[0]
    for seed in (0, 1):
        sampled = [
            places(each, sample_chunks(np.arange(len(each)), chunk_keys(each, seed), 50)) for each in (ds, turned)
        ]
        assert sampled[0] == sampled[1]


def test_keys_tell_documents_and_chunks_apart(ds):
    assert len(np.unique(document_keys(ds, 0))) == 200
    assert len(np.unique(chunk_keys(ds, 0))) == len(ds)


@pytest.mark.parametrize("held_out", [1e-12, 1 - 1e-12])
def test_an_empty_side_is_an_error(ds, held_out):
    with pytest.raises(ConfigError, match="of 200 documents leaves"):
        split_by_document(ds, held_out, 0)


@pytest.mark.parametrize(
    ("budget", "epochs", "steps"),
    [
        ({}, 1, 12),
        ({"epochs": 3}, 3, 36),
        ({"steps": 5}, 1, 5),
        ({"steps": 12}, 1, 12),
        ({"steps": 13}, 2, 12),
        ({"steps": 100}, 9, 99),
    ],
    ids=str,
)
def test_a_budget_is_spent_in_whole_steps_and_equal_epochs(budget, epochs, steps):
    ids, keys = np.arange(10, 110), np.random.default_rng(0).permutation(200).astype(np.uint64)
    plan = plan_run(ids, keys, chunks_per_step=8, **budget)
    assert (plan.epochs, plan.steps) == (epochs, steps)
    assert len(plan.chunk_ids) * epochs == steps * 8
    assert set(plan.chunk_ids) <= set(ids)
    assert (np.diff(plan.chunk_ids) > 0).all()
    left_out = np.setdiff1d(ids, plan.chunk_ids)
    assert keys[plan.chunk_ids].max() < keys[left_out].min()


def test_too_few_chunks_for_a_step():
    with pytest.raises(ConfigError, match="takes 8 chunks a step, and there are 7"):
        plan_run(np.arange(7), np.arange(7, dtype=np.uint64), chunks_per_step=8)


class Bigram(nn.Module):
    """Logits that depend on the token alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids):
        self.logits = self.dropout(self.table(input_ids))
        return self


@pytest.mark.parametrize(("batch_size", "seq"), [(3, CHUNK_TOKENS), (64, 4)])
def test_validation_is_the_mean_over_all_tokens(ds, batch_size, seq):
    ids = split_by_document(ds, 0.1, 0)[1]
    model = Bigram()
    means = Validation(ds, ids, batch_size=batch_size, seq=seq).run(Accelerator(cpu=True), model, token_sums)
    tokens, targets = (torch.from_numpy(each) for each in ds.gather(ids, out="int64"))
    logits = model.table(tokens).detach().double().flatten(0, 1)
    expected = cross_entropy(logits, targets.flatten(), ignore_index=-100)
    assert means["val_tokens"] == (targets != -100).sum()
    assert means["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert means["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-5)
    assert model.training


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_held_out_chunks_in_equally_many_batches(ds, world_size):
    ids = np.arange(10, 33)
    validation = Validation(ds, ids, batch_size=4, seq=CHUNK_TOKENS)
    shares = [validation.batches(rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    counted = [chunk for share in shares for chunks, counts in share for chunk in chunks[counts]]
    assert sorted(counted) == ids.tolist()


def test_token_sums_leave_out_positions_without_a_target():
    logits = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.randint(0, 7, (2, 5))
    targets[0, 3:] = -100
    sums = token_sums(logits, targets)
    kept = logits[targets != -100]
    p = kept.softmax(-1)
    assert sums.tokens == 8
    torch.testing.assert_close(sums.loss, cross_entropy(kept, targets[targets != -100], reduction="sum"))
    torch.testing.assert_close(sums.entropy, -(p * p.log()).sum().detach())
    torch.testing.assert_close(sums.max_prob, p.max(-1).values.sum().detach())
    assert not sums.entropy.requires_grad
    sums.loss.backward()
    assert not logits.grad[0, 3:].any()
