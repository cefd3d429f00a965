"""Patched models of the `transformers` library: the same losses and gradients, without logits."""

import copy
import functools

import pytest
import torch
import transformers
from torch import nn

import fluxcore
from fluxcore.integrations.transformers import patch, unpatch

V, T = 61, 9


def gpt2(**facts):
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=T, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=0, **facts,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def like_llama(name, **facts):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=T, head_dim=8, **facts,
    )  # fmt: skip
    return getattr(transformers, f"{name}ForCausalLM")(config)


def with_bias(model):
    model.lm_head.bias = nn.Parameter(torch.randn(V))
    return model


MODELS = {
    "gpt2": gpt2,
    "gpt2, not tied": lambda: gpt2(tie_word_embeddings=False),
    "llama": lambda: like_llama("Llama"),
    "llama, bias": lambda: with_bias(like_llama("Llama")),
    "qwen2, tied": lambda: like_llama("Qwen2", tie_word_embeddings=True),
}


@pytest.fixture
def tokens():
    return torch.randint(V, (3, T))


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().train()


def run(model, tokens, **rest):
    labels = tokens.clone()
    labels[0, 3:] = -100
    model.zero_grad()
    output = model(input_ids=tokens, labels=labels, **rest)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("rest", [{}, {"num_items_in_batch": torch.tensor(7)}], ids=["mean", "items"])
def test_a_patched_model_has_the_same_loss_and_gradients_and_no_logits(model, rest, tokens):
    expected, expected_gradients = run(model, tokens, **rest)
    assert patch(model) is model
    output, gradients = run(model, tokens, **rest)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(gradients, expected_gradients)
    assert output.logits is None
    assert "logits" not in output
    assert model(input_ids=tokens).logits.shape == (3, T, V)
    as_tuple = model(input_ids=tokens, labels=tokens, return_dict=False)
    assert as_tuple[0].dim() == 0
    assert not any(isinstance(value, torch.Tensor) for value in as_tuple[1:])
    unpatch(model)
    again, again_gradients = run(model, tokens, **rest)
    assert torch.equal(again.logits, expected.logits)
    torch.testing.assert_close(again_gradients, expected_gradients, rtol=0, atol=0)


def test_penalty_statistics_and_other_options(model, tokens):
    logits = model(input_ids=tokens).logits[:, :-1]
    options = {"penalty": fluxcore.Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "label_smoothing": 0.1}
    expected, stats = fluxcore.cross_entropy(logits, tokens[:, 1:], return_stats=("entropy", "logprob"), **options)
    patch(model, stats=("entropy", "logprob"), options=fluxcore.LinearOptions(rows=4), **options)
    output = model(input_ids=tokens, labels=tokens)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.softmax_stats.entropy[:, :-1], stats.entropy)
    torch.testing.assert_close(output.softmax_stats.logprob[:, :-1], stats.logprob)
    assert output.softmax_stats.logprob[:, -1].isnan().all()


def test_half_precision_and_autocast(tokens):
    model = patch(like_llama("Llama").bfloat16())
    _, gradients = run(model, tokens)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.bfloat16}
    model = like_llama("Llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(input_ids=tokens, labels=tokens).loss
        ours = patch(model)(input_ids=tokens, labels=tokens).loss
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=0)


def test_a_copy_of_a_patched_model_is_its_own(tokens):
    model = patch(gpt2())
    copied = copy.deepcopy(model)
    copied.lm_head.weight.data.zero_()
    assert not torch.equal(model(input_ids=tokens, labels=tokens).loss, copied(input_ids=tokens, labels=tokens).loss)


@pytest.mark.filterwarnings("ignore")  # third parties
def test_the_trainer_of_transformers_trains_a_patched_model(tmp_path):
    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(V, (8, T))]

    def losses(model):
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2, logging_steps=1,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, learning_rate=1e-2,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:3])
        trainer.train()
        trained = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return [*trained, trainer.evaluate()["eval_loss"]]

    model = gpt2()
    copied = patch(copy.deepcopy(model))
    expected, ours = losses(model), losses(copied)
    assert len(expected) == 4
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected), rtol=1e-3, atol=1e-4)


@pytest.fixture
def supervised(tmp_path):
    """A trainer of TRL for a model."""
    import datasets
    import tokenizers
    import trl

    words = tokenizers.models.WordLevel({str(i): i for i in range(V)}, unk_token="0")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), eos_token="0", pad_token="1", unk_token="0"
    )
    torch.manual_seed(0)
    rows = datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in torch.randint(V, (8, T)).tolist()])

    def make(model):
        arguments = trl.SFTConfig(
            str(tmp_path), max_steps=2, per_device_train_batch_size=2, logging_steps=1, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, learning_rate=1e-2, max_length=T, bf16=False,
            gradient_checkpointing=False,
        )  # fmt: skip
        return trl.SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)

    return make


@pytest.mark.filterwarnings("ignore")  # third parties
def test_a_trainer_of_trl_trains_a_patched_model(supervised):
    def train(trainer):
        trainer.train()
        names = ("loss", "entropy", "mean_token_accuracy", "grad_norm")
        return torch.tensor([[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry])

    model = gpt2()
    plain, patched, penalised = (supervised(copy.deepcopy(model)) for _ in range(3))
    patch(patched.model)
    patch(penalised.model, penalty=fluxcore.Sharpness("neg_entropy", 0.5))
    expected = train(plain)
    torch.testing.assert_close(train(patched), expected, rtol=1e-3, atol=1e-4)
    # The trainer divides by the number of all labels, of which the first of each row is no prediction.
    penalty = 0.5 * expected[0, 1] * (T - 1) / T
    torch.testing.assert_close(train(penalised)[0, 0], expected[0, 0] + penalty, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # third parties
def test_what_a_trainer_of_trl_asks_for_is_given_or_refused(supervised, tokens):
    trainer = supervised(gpt2())
    model, labels = trainer.model.eval(), tokens.clone()
    labels[0, 3:] = -100
    call = {"input_ids": tokens, "labels": labels, "fused_lm_head": True}
    expected, own = model(**call), model.forward
    output = patch(model)(**call)
    for name in ("loss", "log_probs", "entropy", "is_top1", "label_mask"):
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), check_dtype=False)
    assert unpatch(model).forward == own
    with pytest.raises(ValueError, match=r"must ask for .* `temperature` = 0.5, got log_probs.* at 1.0"):
        patch(model, temperature=0.5)


@pytest.mark.filterwarnings("ignore")  # third parties
def test_a_trainer_of_trl_that_passes_by_the_patch_is_stopped(supervised):
    model = patch(gpt2(), penalty=fluxcore.Sharpness("neg_entropy", 0.5))
    trainer = supervised(model)
    with pytest.raises(
        RuntimeError, match=r"that of trl\.trainer\.utils was put on it later\n\n.*patch\(trainer.model\)"
    ):
        trainer.train()
    with pytest.raises(ValueError, match=r"got that of trl\.trainer\.utils, put on it later\n\nCall `unpatch` before"):
        unpatch(model)
    del model.forward
    assert not unpatch(model)._forward_hooks
    assert not model._forward_pre_hooks


def test_a_decoration_of_the_patched_forward_is_none_of_our_business(tokens):
    model = patch(gpt2())
    inner = model.forward
    calls = []

    @functools.wraps(inner)
    def counted(*args, **kwargs):
        calls.append(kwargs)
        return inner(*args, **kwargs)

    expected = model(input_ids=tokens, labels=tokens).loss
    model.forward = counted
    assert torch.equal(model(input_ids=tokens, labels=tokens).loss, expected)
    assert len(calls) == 1
    assert "forward" not in vars(unpatch(model))


class Adapted(nn.Linear):
    def forward(self, hidden):
        return 2 * super().forward(hidden)


def test_models_that_cannot_be_patched_say_why():
    model = gpt2()
    with pytest.raises(TypeError, match=r"`options` of the loss must be of .*link.*, got 'reduction'"):
        patch(model, reduction="sum")
    with pytest.raises(ValueError, match="`model` must be patched, and is not"):
        unpatch(model)
    with pytest.raises(ValueError, match="already\n\nCall `unpatch"):
        patch(patch(model))
    adapted, quantised = gpt2(tie_word_embeddings=False), gpt2(tie_word_embeddings=False)
    adapted.lm_head = Adapted(16, V)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Linear, got Adapted\n\nAn adapter"):
        patch(adapted)
    quantised.lm_head.weight = nn.Parameter(torch.ones(V, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"must have a floating point weight, got torch.int8\n\nA quantised"):
        patch(quantised)
    with pytest.raises(ValueError, match="must have values, got a weight on the device meta"):
        patch(gpt2().to("meta"))
    with pytest.raises(ValueError, match="must be those of its linear head, and are not\n\nFinal soft-capping"):
        patch(like_llama("Gemma2", final_logit_softcapping=0.01))
