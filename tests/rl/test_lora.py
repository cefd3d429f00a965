"""Adapters against a model whose weights are the sums, and without them against the model that it was."""

import pytest
import torch
from support.trainer_runs import TINY_MODEL
from transformers import AutoModelForCausalLM

from fluxcore.rl.lora import LowRank, WithoutLora, add_lora, without_lora
from fluxcore.rl.policy import add_value_head
from fluxcore.training.models import load_model

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
LLAMA = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 1}


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture(params=["micro", "llama-tiny"])
def made(request):
    """A model with adapters that have learnt something, what it said before them, and the like without."""
    torch.manual_seed(0)
    overrides = TINY_MODEL if request.param == "micro" else LLAMA
    model = load_model(request.param, vocab_size=24, context=16, overrides=overrides).eval()
    before = logits(model)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, rank=2, alpha=4.0)
    assert torch.equal(logits(model), before)
    for module in model.modules():
        if isinstance(module, LowRank):
            module.up.data.normal_()
    assert (logits(model) - before).abs().max() > 0.01
    return model, before, plain


def test_without_adapters_it_is_what_it_was(made):
    model, before, _ = made
    now = logits(model)
    assert torch.equal(logits(WithoutLora(model)), before)
    with without_lora(model):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), now)


def test_only_adapters_and_values_are_trained(made):
    model, _, _ = made
    add_value_head(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".lora." not in name} == {"value_head.weight", "value_head.bias"}
    model(input_ids=TOKENS).logits.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in trained if ".lora." in name}


def test_a_checkpoint_is_a_plain_model_with_the_sums(made, tmp_path):
    model, _, _ = made
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert not any(isinstance(module, LowRank) for module in plain.modules())
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-5)


def test_a_state_goes_back_into_a_model_with_adapters_to_the_last_bit(made):
    model, before, plain = made
    state = {name: value.clone() for name, value in model.state_dict().items()}
    now = logits(model)
    for module in model.modules():
        if isinstance(module, LowRank):
            module.up.data.zero_()
    model.load_state_dict(state)
    assert torch.equal(logits(model), now)
    assert torch.equal(logits(WithoutLora(model)), before)
    assert plain.keys() < state.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": 0, "alpha": 1.0}, "`rank` must be within 1 and the width of the narrowest map, 16, got 0"),
        ({"rank": 17, "alpha": 1.0}, "`rank` must be within 1 and the width of the narrowest map, 16, got 17"),
        ({"rank": 2, "alpha": float("nan")}, "`alpha` must be finite and > 0, got nan"),
    ],
)
def test_bad_input(keys, message):
    model = load_model("micro", vocab_size=24, context=16, overrides=TINY_MODEL)
    with pytest.raises(ValueError, match=message):
        add_lora(model, **keys)
