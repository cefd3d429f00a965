"""Language model scores against a loop over tokens in float64, and every model that does not fit."""

import numpy as np
import pytest
import torch
from support.token_sets import random_rows, write_tokens
from transformers import GPT2Config, GPT2LMHeadModel

from fluxcore.data.text import files
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.scoring import LanguageModelScorer, TokenScorer, TokenStats, lm, score, token_entropies
from fluxcore.scoring.scorer import ChunkReader

V, T = 67, 7


def tiny_model(**overrides):
    torch.manual_seed(0)
    facts = {"vocab_size": V, "n_positions": T + 1, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 5}
    model = GPT2LMHeadModel(GPT2Config(**(facts | overrides))).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform, as trained models are
    return model


class ByLoop(TokenScorer):
    """Each prediction on its own: the model is called with what stands before, and nothing else."""

    name, fingerprint = "loop", "loop"

    def __init__(self, model, **options):
        super().__init__(**options)
        self.model = model

    def check(self, ds):
        pass

    def token_stats(self, batch):
        stats = np.full((3, *batch.tokens.shape), np.nan)
        stats = np.concatenate([stats, stats[..., :1]], axis=2)
        for i, length in enumerate(batch.valid_lens):
            ids = batch.tokens[i, :length].tolist()
            for j in range(0 if self.include_bos else 1, length + 1):
                before = ([self.model.config.bos_token_id] if self.include_bos else []) + ids[:j]
                target = ids[j] if j < length else max(int(batch.targets[i, length - 1]), 0)
                stats[:, i, j] = self.one(before, target)
        return TokenStats(*stats)

    def one(self, before, target):
        with torch.no_grad():
            log_p = self.model(torch.tensor([before])).logits[0, -1].log_softmax(-1)
        H = -(log_p.exp() * log_p).sum()
        V = (log_p.exp() * (log_p + H) ** 2).sum()
        return H.item(), V.item(), -log_p[target].item()


@pytest.fixture
def ds(tmp_path):
    rows = random_rows(6, chunk_tokens=T, vocab_size=V)
    return write_tokens(tmp_path / "ds", [*rows, ([3], 4), ([3], None)], chunk_tokens=T, vocab_size=V)


@pytest.mark.parametrize("stats_bytes", [4 * V * 7, 1 << 20, None], ids=["split rows", "all rows", "linear head"])
@pytest.mark.parametrize(("include_last", "include_bos"), [(False, False), (True, True)])
def test_no_less_accurate_than_a_loop_in_float32(ds, include_last, include_bos, stats_bytes, monkeypatch):
    if stats_bytes is not None:  # as for a model that does more to its logits
        monkeypatch.setitem(lm._STATS_BYTES, "cpu", stats_bytes)
        monkeypatch.setattr(lm, "logits_are_linear", lambda model, head: False)
    options = {"include_last": include_last, "include_bos": include_bos}
    model = tiny_model()
    batch = ChunkReader(ds)(np.arange(len(ds)))
    scorer = LanguageModelScorer(model, **options)
    assert (scorer._head is None) == (stats_bytes is not None)
    found = scorer.score_batch(batch)
    naive = ByLoop(model, **options).score_batch(batch)
    exact = ByLoop(tiny_model().double(), **options).score_batch(batch)
    for name in found:
        error, allowed = np.abs(found[name] - exact[name]), np.abs(naive[name] - exact[name]).max()
        ulp = np.spacing(np.abs(exact[name]).max().astype(np.float32))
        assert error.max() <= 2 * allowed + ulp, name


def test_scores_reach_the_data_set_and_say_what_they_are(ds, tmp_path):
    scorer = LanguageModelScorer(tiny_model())
    report = score(ds, scorer, prefix="tiny", batch_size=4)
    expected = ByLoop(tiny_model().double(), include_last=False, include_bos=False).score_batch(
        ChunkReader(ds)(np.arange(len(ds)))
    )
    assert report.columns == tuple(f"tiny.{name}" for name in expected)
    for name in expected:
        np.testing.assert_allclose(ds.column(f"tiny.{name}"), expected[name], rtol=1e-3, err_msg=name)
    assert report.unscored_chunks == 2
    assert (ds.column("tiny.entropy_mean")[-2:] == -1).all()


def test_padding_and_neighbours_change_nothing(ds):
    # A chunk alone, without padding, and the same chunk in a batch of longer ones.
    scorer = LanguageModelScorer(tiny_model())
    together = scorer.token_stats(ChunkReader(ds)(np.arange(len(ds))))
    for i in range(len(ds)):
        batch = ChunkReader(ds)(np.array([i]))
        length = int(batch.valid_lens[0])
        alone = scorer.token_stats(batch)
        np.testing.assert_allclose(together.entropy[i, 1 : length + 1], alone.entropy[0, 1 : length + 1], rtol=1e-4)


def test_token_entropies(ds):
    found = token_entropies(LanguageModelScorer(tiny_model()), ds, np.arange(len(ds)))
    lengths = ds.column("valid_len")
    expected = ByLoop(tiny_model(), include_last=False, include_bos=False).token_stats(
        ChunkReader(ds)(np.arange(len(ds)))
    )
    for row, H, length in zip(found, expected.entropy, lengths, strict=True):
        np.testing.assert_allclose(row[1:length], H[1:length], rtol=1e-4)
        assert np.isnan(row[0])
        assert np.isnan(row[length:]).all()


def test_the_model_is_given_back_as_it_was(ds):
    model = tiny_model(resid_pdrop=0.5).train()
    scorer = LanguageModelScorer(model)
    batch = ChunkReader(ds)(np.arange(3))
    first, second = scorer.score_batch(batch), scorer.score_batch(batch)
    assert model.training
    np.testing.assert_array_equal(first["entropy_mean"], second["entropy_mean"])


def test_a_checkpoint_scores_as_its_model_does(ds, tmp_path):
    tiny_model().save_pretrained(tmp_path / "checkpoint")
    loaded, given = LanguageModelScorer(tmp_path / "checkpoint", device="cpu"), LanguageModelScorer(tiny_model())
    assert loaded.fingerprint == given.fingerprint
    assert LanguageModelScorer(tiny_model(), include_last=True).fingerprint != given.fingerprint
    other = tiny_model()
    with torch.no_grad():
        other.transformer.wte.weight[3, 3] += 1e-3
    assert LanguageModelScorer(other).fingerprint != given.fingerprint


def test_a_model_that_does_not_fit(ds, tmp_path):
    with pytest.raises(ValueError, match=rf"has a vocabulary of 60, the data set .* one of {V}\n\n"):
        LanguageModelScorer(tiny_model(vocab_size=60)).check(ds)
    with pytest.raises(
        ValueError, match=r"has a context of 6 tokens, the chunks .* need 7\n\n.*smaller `chunk_tokens`"
    ):
        LanguageModelScorer(tiny_model(n_positions=6)).check(ds)
    with pytest.raises(ValueError, match="need 8"):
        LanguageModelScorer(tiny_model(n_positions=7), include_bos=True).check(ds)
    with pytest.raises(ValueError, match="`include_bos` needs a BOS token"):
        LanguageModelScorer(tiny_model(bos_token_id=None), include_bos=True)
    with pytest.raises(
        OSError, match=r"`model` must be a folder with config\.json and model\.safetensors, got .*nowhere"
    ):
        LanguageModelScorer(tmp_path / "nowhere")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("some text to train on\n" * 9)
    tokenizer = Tokenizer.train(files(tmp_path / "a.txt"), vocab_size=260)
    ds = write_tokens(
        tmp_path / "ds", [([1, 2], None)], chunk_tokens=T, vocab_size=260, tokenizer=tokenizer.fingerprint
    )
    checkpoint = tmp_path / "checkpoint"
    tiny_model(vocab_size=300).save_pretrained(checkpoint)
    (checkpoint / "tokenizer.json").write_text(tokenizer.to_json())
    LanguageModelScorer(checkpoint, device="cpu").check(ds)
    (checkpoint / "tokenizer.json").write_text(Tokenizer.train(files(tmp_path / "a.txt"), vocab_size=259).to_json())
    with pytest.raises(ValueError, match="has another tokenizer than the data set"):
        LanguageModelScorer(checkpoint, device="cpu").check(ds)


def test_broken_weights_are_an_error_and_nothing_is_written(ds):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"gave nan as entropy_mean of chunk 0\n\nIts model gives logits"):
        score(ds, LanguageModelScorer(model))
    assert not [name for name in ds.columns if name.startswith("lm.")]
