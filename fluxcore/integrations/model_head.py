"""The linear head of a causal language model of the `transformers` library, and the hidden states that go into it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fluxcore.ops._checks import DTYPES

_TOLERANCE = 0.02  # of the largest logit: what half precision may make of another order of the same operations


def linear_head(model: Any) -> nn.Linear:
    """The head of `model`, its output embeddings.

    Raises:
        TypeError: it has none, another than `torch.nn.Linear`, or a quantised one.
        ValueError: its weight has no values yet.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise TypeError(
            f"the head of `model`, {type(model).__name__}, must be a torch.nn.Linear, got {type(head).__name__}"
            "\n\nAn adapter on the head has to be merged into it first, and a quantised head to be dequantised."
        )
    if head.weight.dtype not in DTYPES:
        raise TypeError(
            f"the head of `model` must have a floating point weight, got {head.weight.dtype}"
            "\n\nA quantised head has to be dequantised first."
        )
    if head.weight.is_meta:
        raise ValueError("the head of `model` must have values, got a weight on the device meta\n\nLoad it first.")
    return head


@contextmanager
def hidden_instead_of_logits(head: nn.Module) -> Iterator[None]:
    """Within, `head` gives back the hidden states that go into it, so that its model's `logits` are these."""
    with attribute(head, "forward", _same):
        yield


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within, `owner` has an attribute `name` of its own."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if had:
            own[name] = before
        else:
            del own[name]


def _same(hidden: Tensor) -> Tensor:
    return hidden


def logits_are_linear(model: Any, head: nn.Linear) -> bool:
    """Whether the model's logits are those of its head, and nothing is done to them after it; tries two tokens."""
    device = model.get_input_embeddings().weight.device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            tokens = torch.tensor([[0, min(1, head.out_features - 1)]], device=device)
            expected = model(input_ids=tokens, use_cache=False).logits
            with hidden_instead_of_logits(head):
                hidden = model(input_ids=tokens, use_cache=False).logits
            if hidden.shape[-1] != head.in_features:
                return False
            logits = head(hidden.to(head.weight.dtype)).to(expected.dtype)
    finally:
        model.train(training)
    return bool((logits - expected).abs().max() <= _TOLERANCE * expected.abs().max())
