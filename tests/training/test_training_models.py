import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from fluxcore.training.config import ConfigError
from fluxcore.training.models import NAMED_CONFIGS, check_model, load_model
from fluxcore.training.sampling import Sampler
from fluxcore.training.seeds import rng_state, seed_everything, set_rng_state

SMALL = {"micro": {"n_layer": 1, "n_embd": 16, "n_head": 2}}


def micro(**overrides):
    return load_model("micro", vocab_size=50, context=16, overrides=SMALL["micro"] | overrides)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("micro", {}),
        ("llama-tiny", {"num_hidden_layers": 1}),
        ("gpt2-small", {"n_layer": 1, "n_embd": 24}),
    ],
)
def test_named_configurations(name, overrides):
    model = load_model(name, vocab_size=50, context=16, overrides=overrides)
    logits = model(input_ids=torch.arange(16)[None]).logits
    assert logits.shape == (1, 16, 50)
    assert logits.dtype == torch.float32
    for key, value in overrides.items():
        assert getattr(model.config, key) == value


def test_sizes_that_the_names_promise():
    with torch.device("meta"):
        sizes = {name: load_model(name, vocab_size=50257, context=1024).num_parameters() for name in NAMED_CONFIGS}
    assert sizes["gpt2-small"] == 124_439_808
    with torch.device("meta"):
        micro_size = load_model("micro", vocab_size=4096, context=256).num_parameters()
    assert 1e6 < micro_size < 3e6


def test_weights_follow_the_seed():
    first, second, third = (seed_everything(seed) or micro() for seed in (1, 1, 2))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)


def test_a_folder_is_loaded(tmp_path):
    model = micro()
    model.save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m", vocab_size=50, context=16)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    with pytest.raises(ValueError, match="knows 50 tokens, and the data has ids up to 50"):
        load_model(tmp_path / "m", vocab_size=51, context=16)
    with pytest.raises(ValueError, match="reads 16 tokens at most, and a sequence has 32"):
        load_model(tmp_path / "m", vocab_size=50, context=32)
    with pytest.raises(ValueError, match="`model_args` change a named configuration"):
        load_model(tmp_path / "m", vocab_size=50, context=16, overrides={"n_layer": 1})


def test_a_model_is_checked_before_there_is_data(tmp_path):
    micro().save_pretrained(tmp_path / "m")
    check_model("llama-tiny", context=16)
    check_model(tmp_path / "m", context=16)
    with pytest.raises(ValueError, match="reads 16 tokens at most, and a sequence has 32"):
        check_model(tmp_path / "m", context=32)
    with pytest.raises(ValueError, match="`model_args` change a named configuration"):
        check_model(tmp_path / "m", context=16, overrides={"n_layer": 1})
    with pytest.raises(ValueError, match="`model_args` has no field 'layers' for 'micro'"):
        check_model("micro", context=16, overrides={"layers": 2})
    with pytest.raises(FileNotFoundError, match="micro, llama-tiny, gpt2-small"):
        check_model("./none", context=16)


def test_what_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"`model` must be a folder with config\.json"):
        load_model(tmp_path, vocab_size=50, context=16)
    with pytest.raises(FileNotFoundError, match="micro, llama-tiny, gpt2-small"):
        load_model("./none", vocab_size=50, context=16)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"`model` 'nobody/nothing' could not be loaded.*\n\n.*Without a network"):
        load_model("nobody/nothing", vocab_size=50, context=16)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="`model_args` has no field 'layers' for 'micro'"):
        micro(layers=2)


def test_random_state_round_trips_through_a_weights_only_file(tmp_path):
    def draw():
        return random.random(), np.random.standard_normal(), torch.randn(3).tolist()

    seed_everything(5)
    np.random.standard_normal()  # leaves a second number waiting
    torch.save(rng_state(), tmp_path / "rng.pt")
    expected = [draw(), draw()]
    seed_everything(6)
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [draw(), draw()] == expected


@pytest.fixture
def tokenizer(tmp_path):
    """Bytes, and an end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:49]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate([*letters, "<|endoftext|>"])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_samples_continue_prompts_and_leave_training_alone(tokenizer):
    seed_everything(0)
    model = micro(resid_pdrop=0.5)
    sampler = Sampler(tokenizer, prompts=["A", "12"], new_tokens=100, top_p=0.9, context=16)
    before = torch.get_rng_state()
    texts = sampler.sample(model, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert list(texts) == ["A", "12"]
    assert all(text.startswith(prompt) and len(text) > len(prompt) for prompt, text in texts.items())
    assert sampler.sample(model, seed=3) == texts
    assert sampler.sample(model, seed=4) != texts


def test_samples_need_a_tokenizer_and_prompts_that_fit(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="Set tokenizer=PATH"):
        Sampler(tmp_path / "none.json", prompts=["A"], new_tokens=1, top_p=0.9, context=16)
    for prompt in ("", "A" * 16):
        with pytest.raises(ConfigError, match=f"between 1 and 15 tokens, got {len(prompt)}"):
            Sampler(tokenizer, prompts=[prompt], new_tokens=1, top_p=0.9, context=16)


def test_a_checkpoint_of_ours_is_a_model_of_theirs(tmp_path):
    model = micro()
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(theirs.lm_head.weight, model.lm_head.weight)
