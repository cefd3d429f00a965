"""A causal language model as policy: what it says of the tokens of an answer, without storing all logits.

B rows    P + A tokens of prompt and answer    A of the answer    D hidden    V classes
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fluxcore import linear_kl_div, linear_softmax_stats
from fluxcore.integrations.model_head import hidden_instead_of_logits, linear_head, logits_are_linear
from fluxcore.rl.kl import kl_estimate

VALUE_HEAD = "value_head"
VALUE_NETWORK = "value_network"


class AnswerScores(NamedTuple):
    """What a policy says of the tokens of answers; each [B, A], 0 where the mask is False."""

    logprobs: Tensor
    """Nats, of the tokens themselves; differentiable."""
    entropy: Tensor
    """Nats, of the distribution that they were drawn from; differentiable."""
    values: Tensor
    """Expected return before each; differentiable, and 0 of a model with neither value head nor value network."""
    hidden: Tensor
    """[n, D] of the n tokens of the mask, row by row: what the head makes their distributions of."""


def add_value_head(model: Any) -> None:
    """Let `model` say what return it expects at each token: a linear map of its last hidden states, 0 at first.

    It becomes a part of the model, `value_head`, and so of its parameters, optimizer and checkpoints.

    Raises:
        TypeError: the model has no linear head to take the hidden states from.
        ValueError: something is done to the logits after that head, or there is a value head.
    """
    setattr(model, VALUE_HEAD, zero_map(checked_head(model)))


def add_value_network(model: Any) -> None:
    """Let a network of its own say what return `model` can expect at each token: a copy of its body, and a linear map.

    It becomes a part of the model, `value_network`, and so of its parameters, optimizer and checkpoints; but the loss
    of the values does not reach the weights that the policy is made of.

    Raises:
        TypeError, ValueError: as `add_value_head`.
    """
    setattr(model, VALUE_NETWORK, ValueNetwork(model, zero_map(checked_head(model))))


class ValueNetwork(nn.Module):
    """Expected return at the tokens of answers.

    Args:
        model: Its body, the base model of `transformers`, is copied.
        value: [D] -> [1].
    """

    def __init__(self, model: Any, value: nn.Linear) -> None:
        super().__init__()
        self.body = deepcopy(model.base_model)
        self.value = value

    def forward(self, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
        """[n] of the n tokens of `mask`, row by row; arguments as of `answer_hidden`."""
        hidden = self.body(
            input_ids=tokens, attention_mask=attention.long(), position_ids=positions(attention), use_cache=False
        ).last_hidden_state
        values: Tensor = self.value(hidden[:, -mask.shape[1] - 1 : -1][mask]).squeeze(-1)
        return values


def checked_head(model: Any) -> nn.Linear:
    """The head of a model that has no values yet, and whose logits are linear."""
    head = linear_head(model)
    if not logits_are_linear(model, head):
        raise ValueError(
            f"the logits of `model`, {type(model).__name__}, must be those of its head, and something is done to them"
            "\n\nTake a model without softcap or scale on its logits."
        )
    for name in (VALUE_HEAD, VALUE_NETWORK):
        if hasattr(model, name):
            raise ValueError(f"`model` must have no `{name}` yet")
    return head


def zero_map(head: nn.Linear) -> nn.Linear:
    """[D] -> [1], 0 at first."""
    value = nn.Linear(head.in_features, 1, device=head.weight.device)
    nn.init.zeros_(value.weight)
    nn.init.zeros_(value.bias)
    return value


def positions(attention: Tensor) -> Tensor:
    """[B, T] int64: the place of each token in its own row, whatever the padding on its left."""
    return (attention.long().cumsum(-1) - 1).clamp(min=0)


def answer_hidden(model: Any, head: nn.Linear, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Hidden states before each token of the answers.

    Args:
        model: Called with tokens, mask and positions; may be wrapped, as for data parallelism.
        head: `linear_head` of the bare model.
        tokens: [B, P + A] int64.
        attention: [B, P + A] bool.
        mask: [B, A] bool.
    Returns:
        [n, D] of the n tokens of `mask`, row by row.
    """
    width = mask.shape[1]
    with hidden_instead_of_logits(head):
        hidden = model(
            input_ids=tokens, attention_mask=attention.long(), position_ids=positions(attention), use_cache=False
        ).logits
    # What stands at t foretells the token at t + 1.
    kept: Tensor = hidden[:, -width - 1 : -1][mask]
    return kept


def score_answers(
    model: Any,
    bare: Any,
    tokens: Tensor,
    attention: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
) -> AnswerScores:
    """Log-probability, entropy and value of every token of the answers, from one forward pass.

    Args:
        model: `bare`, or what wraps it.
        bare: A causal language model with a linear head, and a value head, a value network or neither.
        tokens: [B, P + A] int64.
        attention: [B, P + A] bool, False for padding on either side.
        mask: [B, A] bool, the tokens that count.
        temperature: > 0, of the distribution that they were drawn from.
    """
    head = linear_head(bare)
    hidden = answer_hidden(model, head, tokens, attention, mask)
    chosen = tokens[:, -mask.shape[1] :][mask]
    stats = linear_softmax_stats(
        hidden, head.weight, chosen, linear_bias=head.bias, outputs=("logprob", "entropy"), temperature=temperature
    )
    values = hidden.new_zeros(len(hidden))
    if hasattr(bare, VALUE_NETWORK):
        values = getattr(bare, VALUE_NETWORK)(tokens, attention, mask)
    elif hasattr(bare, VALUE_HEAD):
        values = getattr(bare, VALUE_HEAD)(hidden).squeeze(-1)
    assert stats.logprob is not None
    assert stats.entropy is not None
    return AnswerScores(spread(stats.logprob, mask), spread(stats.entropy, mask), spread(values, mask), hidden)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[n] of the entries of a mask -> its shape, 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def answer_kl(
    scores: AnswerScores,
    head: nn.Linear,
    reference: Any,
    tokens: Tensor,
    attention: Tensor,
    mask: Tensor,
    *,
    estimator: str,
    temperature: float = 1.0,
) -> Tensor:
    """KL(policy, reference) at every token of the answers.

    Args:
        scores: The policy's, of the same tokens.
        head: The policy's.
        reference: Another model with the same classes; gets no gradient.
        tokens: [B, P + A] int64.
        attention: [B, P + A] bool.
        mask: [B, A] bool.
        estimator: "full", over all classes; or k1, k2, k3 of the token alone, see `kl_estimate`.
        temperature: > 0, of both.
    Returns:
        [B, A], nats, 0 where the mask is False. Differentiable by the policy.
    """
    ref_head = linear_head(reference)
    with torch.no_grad():
        ref_hidden = answer_hidden(reference, ref_head, tokens, attention, mask)
        ref_weight = ref_head.weight.detach()
        ref_bias = None if ref_head.bias is None else ref_head.bias.detach()
    if estimator == "full":
        full = linear_kl_div(
            scores.hidden,
            head.weight,
            ref_hidden,
            ref_weight,
            linear_bias=head.bias,
            ref_linear_bias=ref_bias,
            reduction="none",
            temperature=temperature,
        )
        return spread(full, mask)
    chosen = tokens[:, -mask.shape[1] :][mask]
    stats = linear_softmax_stats(
        ref_hidden, ref_weight, chosen, linear_bias=ref_bias, outputs=("logprob",), temperature=temperature
    )
    assert stats.logprob is not None
    return kl_estimate(scores.logprobs, spread(stats.logprob, mask), estimator=estimator, mask=mask)  # type: ignore[arg-type]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, `model` is in evaluation mode and nothing has a gradient."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
