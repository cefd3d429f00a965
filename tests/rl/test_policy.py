"""A policy's rollouts: padded batches against a loop over single sequences, and no matrix of all logits."""

import subprocess
import sys

import pytest
import torch
from support.trainer_runs import TINY_MODEL

from fluxcore.integrations.model_head import linear_head
from fluxcore.rl.generation import GumbelNoise, draw_answers, given_answers, left_padded
from fluxcore.rl.policy import add_value_head, add_value_network, answer_kl, score_answers
from fluxcore.training.models import load_model

END, PAD, NEW = 3, 0, 6
PROMPTS = [torch.tensor(ids) for ids in ([5, 6, 7, 8, 9], [11], [4, 12, 13], [20, 21])]
SEEDS = [10, 20, 30, 41]
LLAMA = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 2}


def make_model(name, seed=0):
    torch.manual_seed(seed)
    overrides = {**TINY_MODEL, "resid_pdrop": 0.0} if name == "micro" else LLAMA
    model = load_model(name, vocab_size=24, context=16, overrides=overrides)
    for parameter in model.parameters():  # far from uniform, and sensitive to positions
        parameter.data.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(params=["micro", "llama-tiny"])
def model(request):
    made = make_model(request.param)
    add_value_head(made)
    torch.nn.init.normal_(made.value_head.weight)
    return made


def draw(model, prompts=PROMPTS, seeds=SEEDS, **options):
    settings = {"new_tokens": NEW, "pad_id": PAD, "end_id": END} | options
    return draw_answers(model, prompts, seeds=seeds, **settings)


def drawn_one_by_one(model, prompt, seed, temperature):
    """Without padding, cache or `generate`: the distribution of each next token, and the noise of this row alone."""
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt.tolist()
    while len(tokens) < len(prompt) + NEW and END not in tokens[len(prompt) :]:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        noise = -torch.empty(len(logits)).exponential_(generator=generator).log()
        tokens.append(int((logits / temperature + noise).argmax()))
    return tokens


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_left_padding_changes_no_answer(model, temperature):
    answers = draw(model, temperature=temperature)
    lengths = set()
    with torch.no_grad():
        for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
            expected = drawn_one_by_one(model, prompt, seed, temperature)
            assert answers.tokens[row][answers.attention[row]].tolist() == expected
            assert int(answers.mask[row].sum()) == len(expected) - len(prompt)
            lengths.add(len(expected) - len(prompt))
    assert answers.mask.shape[1] == max(lengths)


def test_an_answer_ends_with_its_first_end_token():
    model = make_model("micro")
    found = [draw(model, [prompt] * 8, list(range(i, i + 8)), new_tokens=8) for i, prompt in enumerate(PROMPTS)]
    ended = 0
    for answers in found:
        own = answers.tokens[:, -answers.mask.shape[1] :]
        for tokens, mask in zip(own, answers.mask, strict=True):
            kept = tokens[mask].tolist()
            assert END not in kept[:-1]
            assert (tokens[~mask] == PAD).all()
            ended += kept[-1] == END and len(kept) < 8
    assert ended > 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_those_of_each_sequence_alone(model, temperature):
    answers = draw(model)
    reference = make_model("micro", seed=1)
    with torch.no_grad():
        scores = score_answers(model, model, *answers, temperature=temperature)
        kl = {
            name: answer_kl(scores, linear_head(model), reference, *answers, estimator=name, temperature=temperature)
            for name in ("full", "k1", "k3")
        }
        for row, prompt in enumerate(PROMPTS):
            tokens = answers.tokens[row][answers.attention[row]][None]
            n = tokens.shape[1] - len(prompt)
            output = model(input_ids=tokens, output_hidden_states=True)
            before = slice(len(prompt) - 1, -1)
            logp = (output.logits[0, before] / temperature).double().log_softmax(-1)
            ref = (reference(input_ids=tokens).logits[0, before] / temperature).double().log_softmax(-1)
            chosen = tokens[0, len(prompt) :, None]
            own, other = (x.gather(1, chosen)[:, 0] for x in (logp, ref))
            expected = {
                "logprobs": own,
                "entropy": -(logp.exp() * logp).sum(-1),
                "values": model.value_head(output.hidden_states[-1][0, before])[:, 0].double(),
            }
            for name, value in expected.items():
                torch.testing.assert_close(getattr(scores, name)[row, :n].double(), value, rtol=1e-4, atol=1e-5)
                assert (getattr(scores, name)[row, n:] == 0).all()
            d = other - own
            exact = {"full": (logp.exp() * (logp - ref)).sum(-1), "k1": -d, "k3": d.exp() - 1 - d}
            for name, value in exact.items():
                torch.testing.assert_close(kl[name][row, :n].double(), value, rtol=1e-3, atol=1e-4)
                assert (kl[name][row, n:] == 0).all()


@pytest.mark.parametrize("name", ["micro", "llama-tiny"])
def test_values_of_a_network_of_their_own(name):
    model = make_model(name)
    add_value_network(model)
    torch.nn.init.normal_(model.value_network.value.weight)
    for parameter in model.value_network.body.parameters():  # no longer the policy's
        parameter.data.normal_(0, 0.5)
    answers = draw(model)
    scores = score_answers(model, model, *answers)
    with torch.no_grad():
        for row, prompt in enumerate(PROMPTS):
            tokens = answers.tokens[row][answers.attention[row]][None]
            hidden = model.value_network.body(input_ids=tokens).last_hidden_state[0, len(prompt) - 1 : -1]
            expected, n = model.value_network.value(hidden)[:, 0], len(hidden)
            torch.testing.assert_close(scores.values[row, :n], expected, rtol=1e-4, atol=1e-4)
            assert (scores.values[row, n:] == 0).all()
    scores.values.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached
    assert all(name.startswith("value_network.") for name in reached)
    for add in (add_value_head, add_value_network):
        with pytest.raises(ValueError, match="`model` must have no `value_network` yet"):
            add(model)


def test_the_policy_that_drew_is_its_own_reference():
    model = make_model("micro")
    answers = draw(model)
    scores = score_answers(model, model, *answers)
    reference = make_model("micro")
    for name in ("full", "k1", "k2", "k3"):
        kl = answer_kl(scores, linear_head(model), reference, *answers, estimator=name)
        assert kl.abs().max() < 1e-6
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_noise_draws_from_the_distribution():
    logits = torch.tensor([0.0, 1.0, -1.0, float("-inf"), 2.0])
    noise = GumbelNoise(range(4000), 0.8, torch.device("cpu"))
    drawn = noise(torch.zeros(4000, 1), logits.expand(4000, -1)).argmax(1).bincount(minlength=5) / 4000
    expected = (logits / 0.8).softmax(0)
    assert drawn[3] == 0
    assert (drawn - expected).abs().max() < 4 * 0.5 / 4000**0.5  # four standard deviations


def test_given_answers_are_padded_like_drawn_ones():
    answers = given_answers(
        PROMPTS[:2], [torch.tensor([1, 2]), torch.tensor([3, 4, 5])], pad_id=PAD, device=torch.device("cpu")
    )
    assert answers.tokens.tolist() == [[5, 6, 7, 8, 9, 1, 2, PAD], [PAD] * 4 + [11, 3, 4, 5]]
    assert answers.attention.tolist() == [[True] * 7 + [False], [False] * 4 + [True] * 4]
    assert answers.mask.tolist() == [[True, True, False], [True] * 3]


def test_bad_input():
    model = make_model("micro")
    with pytest.raises(ValueError, match=r"`prompts` must have a token each, got lengths \[5, 0\]"):
        left_padded([PROMPTS[0], torch.tensor([], dtype=torch.int64)], PAD)
    with pytest.raises(
        ValueError, match="`prompts` must leave room for `new_tokens` = 12 in the model's context of 16"
    ):
        draw(model, new_tokens=12)
    with pytest.raises(ValueError, match="`seeds` must be one a prompt, 4, got 1"):
        draw(model, seeds=[1])
    add_value_head(model)
    with pytest.raises(ValueError, match="`model` must have no `value_head` yet"):
        add_value_head(model)


MEMORY = """
import resource, torch
from fluxcore.integrations.model_head import linear_head
from fluxcore.rl import policy_loss
from fluxcore.rl.policy import add_value_head, add_value_network, answer_kl, score_answers
from fluxcore.training.models import load_model

torch.set_num_threads(1)
V, B, P, A = 50257, 8, 1, 64
overrides = {"n_layer": 1, "n_embd": 16, "n_head": 2}
model, reference = (load_model("micro", vocab_size=V, context=P + A, overrides=overrides) for _ in range(2))
add_value_head(model)

def step(rows):
    tokens = torch.randint(V, (rows, P + A))
    attention, mask = torch.ones_like(tokens, dtype=torch.bool), torch.ones(rows, A, dtype=torch.bool)
    scores = score_answers(model, model, tokens, attention, mask)
    kl = answer_kl(scores, linear_head(model), reference, tokens, attention, mask, estimator="full")
    loss = policy_loss(scores.logprobs, scores.logprobs.detach(), torch.ones(rows, A), mask=mask).loss
    (loss + kl.mean() - scores.entropy.mean() + scores.values.mean()).backward()

step(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(B)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (B * A * V * 4))
"""


def test_a_step_never_holds_all_logits():
    """Peak memory of log-probabilities, entropy, KL and their gradients, in units of one matrix of all logits."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1, done.stdout
