"""Train a causal language model of the `transformers` library without its logits: `patch` and `unpatch`.

    from fluxcore.integrations.transformers import patch

    patch(model, penalty=fluxcore.Sharpness("neg_entropy", 0.01))
    loss = model(input_ids=tokens, labels=tokens).loss

Where labels are given, the model's own forward runs with its head passing the hidden states through, and with a loss
that takes them, the head's weight and the labels: `fluxcore.linear_cross_entropy`. Router losses and whatever else a
model adds stay. `transformers.Trainer` uses the patched model as it is. A trainer of TRL puts a forward of its own on
its model, which passes by one that was patched before, an error at the first step: patch once the trainer is made,
`patch(trainer.model)`.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fluxcore.integrations.model_head import attribute, hidden_instead_of_logits, linear_head, logits_are_linear
from fluxcore.ops.linear_cross_entropy import linear_cross_entropy
from fluxcore.sharpness import Sharpness

_OWN = frozenset({"input", "linear_weight", "linear_bias", "target", "reduction", "ignore_index", "return_stats"})
_OPTIONS = frozenset(inspect.signature(linear_cross_entropy).parameters) - _OWN - {"token_weight", "penalty_mask"}
_STATE = "_fluxcore_patch"
_OF_ROWS = ("log_probs", "entropy", "is_top1")
"""What trainers of TRL may ask of a patched model."""


@dataclass
class RowsOutput:
    """What a trainer of TRL gets from a patched model: one number a label, 0 where it is -100."""

    loss: Tensor
    log_probs: Tensor
    """Negative losses [B, T-1], or [B, T] for shifted labels: log-probabilities, less penalty and z-loss."""
    entropy: Tensor
    is_top1: Tensor
    label_mask: Tensor
    aux_loss: Tensor | None = None


class _Patch:
    """What the loss of a patched model is made of."""

    def __init__(self, stats: Collection[str] | None, options: dict[str, Any]) -> None:
        self.stats, self.options = stats, options
        self.given: Any = None
        """Statistics of the last loss."""
        self.called = False
        self.of_rows = False
        """Whether the losses of rows are wanted."""
        self.rows: RowsOutput | None = None
        self.replaced: Any = None
        """The forward that the model had of its own."""
        self.forward: Any = None
        """The patched one."""
        self.reached = False
        """Whether the last call of the model came to it."""
        self.hooks: list[RemovableHandle] = []

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
        is_shifted = shift_labels is not None
        if shift_labels is None:
            assert labels is not None
            shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        target = shift_labels.to(logits.device)
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss, self.given = self._loss(head, logits, target, "none" if self.of_rows else reduction, ignore_index)
        if self.of_rows:
            is_label = target != ignore_index
            width = target.shape[-1] - (not is_shifted)  # the last position has no next token
            self.rows = _rows_output(loss, self.given, target, is_label, width)
            loss = loss.sum() / (is_label.sum().clamp(min=1) if num_items_in_batch is None else 1)
        if num_items_in_batch is None:
            return loss
        count = num_items_in_batch
        return loss / (count.to(loss.device) if isinstance(count, Tensor) else count)

    def _loss(
        self, head: nn.Linear, hidden: Tensor, target: Tensor, reduction: Any, ignore_index: int
    ) -> tuple[Tensor, Any]:
        """The loss, and the statistics that are wanted."""
        stats = self.stats
        if self.of_rows:
            stats = tuple({"entropy", "argmax", *(stats or ())})
        result = linear_cross_entropy(
            hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(head.weight.dtype),
            head.weight,
            target,
            linear_bias=head.bias,
            ignore_index=ignore_index,
            reduction=reduction,
            return_stats=stats,
            **self.options,
        )
        return result if isinstance(result, tuple) else (result, None)


def _rows_output(losses: Tensor, stats: Any, target: Tensor, is_label: Tensor, width: int) -> RowsOutput:
    """Of the first `width` positions; the loss is left to be filled in."""
    is_top1 = is_label & (stats.argmax == target)
    entropy = stats.entropy.masked_fill(~is_label, 0)
    values = (value[..., :width] for value in (-losses, entropy, is_top1, is_label))
    return RowsOutput(losses, *values)


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
            one that is patched already, or a trainer of TRL that asks for more than a patched model gives.
    """
    head = linear_head(model)
    _check_what_is_asked(model, options.get("temperature", 1.0))
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
    state = _Patch(stats, {"penalty": penalty, **options})
    state.replaced = model.__dict__.get("forward")
    setattr(model, _STATE, state)
    state.forward = _with_loss_from_hidden_states(type(model).forward)
    model.forward = MethodType(state.forward, model)
    state.hooks = [
        model.register_forward_pre_hook(_expect),
        model.register_forward_hook(_check_reached, with_kwargs=True),
    ]
    return model


def unpatch(model: Any) -> Any:
    """Undo `patch`; gives back `model`.

    Raises:
        ValueError: it is not patched, or has been given another forward since.
    """
    if not hasattr(model, _STATE):
        raise ValueError("`model` must be patched, and is not")
    state, forward = getattr(model, _STATE), vars(model).pop("forward", None)
    if forward is not None and not _wraps(forward, state.forward):
        model.forward = forward
        raise ValueError(
            f"`model` must have the forward that `patch` gave it, got that of {_maker(forward)}, put on it later"
            "\n\nCall `unpatch` before a trainer or another wrapper is made, or `del model.forward` to drop theirs."
        )
    for hook in state.hooks:
        hook.remove()
    delattr(model, _STATE)
    if state.replaced is not None:
        model.forward = state.replaced
    return model


def _expect(model: Any, args: tuple[Any, ...]) -> None:
    getattr(model, _STATE).reached = False


def _check_reached(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """A forward put on the model after it was patched may pass by the patched one, and with it the penalty."""
    if getattr(model, _STATE).reached or not _has_labels(type(model).forward, model, args, kwargs):
        return
    raise RuntimeError(
        f"the patched forward of {type(model).__name__} was passed by: "
        f"that of {_maker(model.forward)} was put on it later"
        "\n\nTrainers of TRL do so. Make the trainer first, then call `patch(trainer.model)`."
    )


def _has_labels(own: Callable[..., Any], model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = {name: value for name, value in kwargs.items() if name != "fused_lm_head"}
    return inspect.signature(own).bind(model, *args, **given).arguments.get("labels") is not None


def _wraps(forward: Any, patched: Any) -> bool:
    """Whether `forward` is `patched`, or a decoration of it, such as that of `accelerate` for mixed precision."""
    while forward is not None:
        forward = getattr(forward, "__func__", forward)
        if forward is patched:
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


def _maker(forward: Any) -> str:
    """The module that a forward is of, for an error; what wraps it may say otherwise of itself."""
    function = getattr(forward, "__func__", forward)
    return str(getattr(function, "__globals__", {}).get("__name__", type(function).__name__))


def _check_what_is_asked(model: Any, temperature: float) -> None:
    """TRL puts on the model a forward that knows what its trainer asks for; nothing of that may silently be dropped."""
    asked = inspect.getclosurevars(getattr(model.forward, "__func__", model.forward)).nonlocals
    if not {"temperature", "outputs"} <= asked.keys():
        return
    if asked["temperature"] != temperature or not set(asked["outputs"]) <= set(_OF_ROWS):
        raise ValueError(
            f"the trainer of `model` must ask for {', '.join(_OF_ROWS)} at `temperature` = {temperature}, got "
            f"{', '.join(asked['outputs'])} at {asked['temperature']}"
            "\n\nLeave its model as it is: it makes them in chunks of its own."
        )


def _with_loss_from_hidden_states(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        state = getattr(self, _STATE)
        state.reached = True
        if not _has_labels(own, self, args, kwargs):
            return own(self, *args, **kwargs)
        head = linear_head(self)
        state.called, state.of_rows = False, fused_lm_head
        with attribute(self, "_loss_function", functools.partial(state.loss, head)), hidden_instead_of_logits(head):
            output = own(self, *args, **kwargs)
        if not state.called:
            raise RuntimeError(
                f"{type(self).__name__} does not make its loss by `loss_function`, so that it cannot be patched"
                "\n\nCall `unpatch(model)`, and `fluxcore.linear_cross_entropy` on its hidden states."
            )
        if fused_lm_head:
            return _with_loss(state, output)
        return _without_logits(output, state)

    return forward


def _with_loss(state: _Patch, output: Any) -> RowsOutput:
    rows, state.rows, state.given, state.of_rows = state.rows, None, None, False
    assert rows is not None
    rows.loss, rows.aux_loss = output.loss, getattr(output, "aux_loss", None)
    return rows


def _without_logits(output: Any, state: _Patch) -> Any:
    if isinstance(output, tuple):
        return (output[0], *output[2:])
    output = type(output)(**{name: value for name, value in output.items() if name != "logits"})
    if state.stats is not None:
        output.softmax_stats, state.given = state.given, None
    return output
