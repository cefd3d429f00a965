"""Train a causal language model of the `transformers` library without its logits: `patch` and `unpatch`.

    from fluxcore.integrations.transformers import patch

    patch(model, penalty=fluxcore.Sharpness("neg_entropy", 0.01))
    loss = model(input_ids=tokens, labels=tokens).loss

Where labels are given, the model's own forward runs with its head passing the hidden states through, and with a loss
that takes them, the head's weight and the labels: `fluxcore.linear_cross_entropy`. Router losses and whatever else a
model adds stay. `transformers.Trainer`, and trainers made from it, use the patched model as it is.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fluxcore.integrations.model_head import attribute, hidden_instead_of_logits, linear_head, logits_are_linear
from fluxcore.ops.linear_cross_entropy import linear_cross_entropy
from fluxcore.sharpness import Sharpness

_OWN = frozenset({"input", "linear_weight", "linear_bias", "target", "reduction", "ignore_index", "return_stats"})
_OPTIONS = frozenset(inspect.signature(linear_cross_entropy).parameters) - _OWN - {"token_weight", "penalty_mask"}
_STATE = "_fluxcore_patch"


class _Patch:
    """What the loss of a patched model is made of."""

    def __init__(self, stats: Collection[str] | None, options: dict[str, Any]) -> None:
        self.stats, self.options = stats, options
        self.given: Any = None
        """Statistics of the last loss."""
        self.called = False

    def loss(
        self,
        head: nn.Linear,
        logits: Tensor,
        labels: Tensor | None,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """As `ForCausalLMLoss` of transformers; `logits` are the hidden states [B, T, D]."""
        self.called = True
        if shift_labels is None:
            assert labels is not None
            shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        hidden = logits if torch.is_autocast_enabled(logits.device.type) else logits.to(head.weight.dtype)
        result = linear_cross_entropy(
            hidden,
            head.weight,
            shift_labels.to(hidden.device),
            linear_bias=head.bias,
            ignore_index=ignore_index,
            reduction="mean" if num_items_in_batch is None else "sum",
            return_stats=self.stats,
            **self.options,
        )
        loss, self.given = result if isinstance(result, tuple) else (result, None)
        if num_items_in_batch is None:
            return loss
        count = num_items_in_batch
        return loss / (count.to(loss.device) if isinstance(count, Tensor) else count)


def patch(model: Any, *, penalty: Sharpness | None = None, stats: Collection[str] | None = None, **options: Any) -> Any:
    """Let `model`, where it is called with labels, make its loss straight from the hidden states.

    The loss is that of the model, the mean over the labels that are not -100 (or the sum over `num_items_in_batch`, as
    `Trainer` gives it), with a penalty and other options if given. The output has no logits then: `logits` is None,
    and in a tuple left out. Without labels nothing changes. Patch before the model is wrapped for several devices.

    Args:
        model: A causal language model of `transformers` with a linear head, tied to its embedding or not, with a bias
            or not. It is called once on two tokens, to see that its logits are those of its head.
        penalty: As in `fluxcore.linear_cross_entropy`.
        stats: Names of statistics to give, fields of `fluxcore.reference.SoftmaxStats`: the output then has them as
            `softmax_stats`, [B, T], at each position those of the prediction of the next.
        **options: Others of `fluxcore.linear_cross_entropy`: `lse_square_scale`, `label_smoothing`, `weight`,
            `softcap`, `temperature`, `link` and `options`.

    Returns:
        `model`.

    Raises:
        TypeError: a head that is not linear, or is quantised, or an unknown option.
        ValueError: a head without values, a model that does more to its logits than its head (final soft-capping, say),
            or one that is patched already.
    """
    head = linear_head(model)
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise TypeError(f"`options` of the loss must be of {', '.join(sorted(_OPTIONS))}, got {unknown[0]!r}")
    if hasattr(model, _STATE):
        raise ValueError("`model` must not be patched already\n\nCall `unpatch(model)` first.")
    if not logits_are_linear(model, head):
        raise ValueError(
            f"the logits of `model`, {type(model).__name__}, must be those of its linear head, and are not"
            "\n\nFinal soft-capping or another operation stands behind it; call `fluxcore.linear_cross_entropy` "
            "on the hidden states, with `softcap`."
        )
    setattr(model, _STATE, _Patch(stats, {"penalty": penalty, **options}))
    model.forward = MethodType(_with_loss_from_hidden_states(type(model).forward), model)
    return model


def unpatch(model: Any) -> Any:
    """Undo `patch`; gives back `model`.

    Raises:
        ValueError: it is not patched.
    """
    if not hasattr(model, _STATE):
        raise ValueError("`model` must be patched, and is not")
    delattr(model, _STATE)
    del model.forward
    return model


def _with_loss_from_hidden_states(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inspect.signature(own).bind(self, *args, **kwargs).arguments.get("labels") is None:
            return own(self, *args, **kwargs)
        head, state = linear_head(self), getattr(self, _STATE)
        state.called = False
        with attribute(self, "_loss_function", functools.partial(state.loss, head)), hidden_instead_of_logits(head):
            output = own(self, *args, **kwargs)
        if not state.called:
            raise RuntimeError(
                f"{type(self).__name__} does not make its loss by `loss_function`, so that it cannot be patched"
                "\n\nCall `unpatch(model)`, and `fluxcore.linear_cross_entropy` on its hidden states."
            )
        return _without_logits(output, state)

    return forward


def _without_logits(output: Any, state: _Patch) -> Any:
    if isinstance(output, tuple):
        return (output[0], *output[2:])
    output = type(output)(**{name: value for name, value in output.items() if name != "logits"})
    if state.stats is not None:
        output.softmax_stats, state.given = state.given, None
    return output
