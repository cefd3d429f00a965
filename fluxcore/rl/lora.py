"""Low-rank adapters: the maps of a frozen model get a small trained addition, and without it are what they were.

A map y = W x + b becomes y = W x + b + (alpha / rank) U D x, with U 0 at first. In a state dict its `weight` is the
whole W + (alpha / rank) U D, so that a checkpoint is a plain model to all who know of no adapters; to load it into a
model with adapters takes U and D alone and leaves W as it is there.

Source: Hu et al., arXiv:2106.09685.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fluxcore.integrations.model_head import linear_head


class LowRank(nn.Module):
    """The addition to one map.

    Args:
        layer: `torch.nn.Linear`, or the `Conv1D` of GPT-2, whose weight is [in, out].
        rank: >= 1.
        alpha: Over `rank` it is what the addition is multiplied by.
    """

    def __init__(self, layer: nn.Module, *, rank: int, alpha: float) -> None:
        super().__init__()
        weight: Any = layer.weight
        self.transposed = isinstance(layer, Conv1D)
        columns, rows = weight.shape if self.transposed else weight.shape[::-1]
        self.down = nn.Parameter(weight.new_empty(rank, columns).normal_(std=1 / math.sqrt(columns)))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = alpha / rank
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self.scale * (x @ self.down.T @ self.up.T)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight of the map with its addition."""
        change = self.scale * (self.up @ self.down)
        return weight + (change.T if self.transposed else change)


def add_lora(model: Any, *, rank: int, alpha: float) -> None:
    """Freeze a model, and give each linear map of its body an adapter; its head and embeddings have none.

    Args:
        model: A causal language model of `transformers`.
        rank: >= 1, at most the width of every map.
        alpha: > 0, finite.
    Raises:
        ValueError: `rank` or `alpha` out of range, or a model without a map to adapt.
    """
    head = linear_head(model)
    body = model.base_model
    layers = [layer for layer in body.modules() if isinstance(layer, nn.Linear | Conv1D) and layer is not head]
    if not layers:
        raise ValueError(f"`model` must have linear maps besides its head, got {type(model).__name__}")
    narrowest = min(min(layer.weight.shape) for layer in layers)
    if not 1 <= rank <= narrowest:
        raise ValueError(f"`rank` must be within 1 and the width of the narrowest map, {narrowest}, got {rank}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"`alpha` must be finite and > 0, got {alpha}")
    for frozen in (body, head):  # and not what is there for the values
        frozen.requires_grad_(False)
    for layer in layers:
        layer.lora = LowRank(layer, rank=rank, alpha=alpha)
        layer.register_forward_hook(_add)
        layer.register_state_dict_post_hook(_save_merged)  # type: ignore[no-untyped-call]
        layer.register_load_state_dict_pre_hook(_keep_weight)  # type: ignore[no-untyped-call]


def _add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + layer.lora(inputs[0]) if layer.lora.enabled else output


def _save_merged(layer: Any, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    with torch.no_grad():
        state[f"{prefix}weight"] = layer.lora.merged(layer.weight)


def _keep_weight(layer: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    state[f"{prefix}weight"] = layer.weight.detach()


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Within, `model` is what it was before it got adapters."""
    adapters = [module for module in model.modules() if isinstance(module, LowRank)]
    before = [adapter.enabled for adapter in adapters]
    for adapter in adapters:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter, enabled in zip(adapters, before, strict=True):
            adapter.enabled = enabled


class WithoutLora:
    """A model with its adapters off, as a reference that takes no memory.

    Args:
        model: A causal language model of `transformers` that `add_lora` was called with.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        """The output of the model without its adapters."""
        with without_lora(self.model):
            return self.model(**inputs)

    def get_output_embeddings(self) -> nn.Module:
        """The head, which has no adapter."""
        head: nn.Module = self.model.get_output_embeddings()
        return head
