"""What the linear ops share as `torch.library` ops: how their arguments lie, their fakes, gradient and autocast rule.

Each defines its own schemas, of the form

    NAME_fwd(tensors, options, plan, ...) -> results
    NAME_bwd(upstream, tensors, saved results, options, plan, wanted) -> Gradients

The first three tensors are input, linear_weight and linear_bias, which alone get gradients (but see `LinearOp.places`);
of the results the first alone has an upstream gradient.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.library import Library, register_autograd, register_fake

from fluxcore.ops._linear_head import Plan, Wanted, no_gradients

TensorsT = TypeVar("TensorsT", bound=NamedTuple)
OptionsT = TypeVar("OptionsT", bound=NamedTuple)


class Signature(Generic[TensorsT, OptionsT]):
    """How the arguments of both ops lie."""

    def __init__(self, tensors: type[TensorsT], options: type[OptionsT]) -> None:
        self._tensors, self._options = tensors, options
        self.tensors, self.end = len(tensors._fields), len(tensors._fields) + len(options._fields) + len(Plan._fields)
        self.compute_dtype = self.end - 1

    def split_forward(self, args: Any) -> tuple[TensorsT, OptionsT, Plan, Any]:
        """The forward op's arguments by what they are; the last are those after the plan."""
        plan = self.end - len(Plan._fields)
        return (
            self._tensors._make(args[: self.tensors]),
            self._options._make(args[self.tensors : plan]),
            Plan(*args[plan : self.end]),
            args[self.end :],
        )

    def split_backward(self, args: Any) -> tuple[Tensor, TensorsT, list[Tensor], OptionsT, Plan, Wanted]:
        """The backward op's arguments by what they are; the list has the saved results."""
        upstream, *rest = args
        saved = len(rest) - self.end - 1
        tensors, options, plan, (wanted,) = self.split_forward((*rest[: self.tensors], *rest[self.tensors + saved :]))
        return upstream, tensors, rest[self.tensors : self.tensors + saved], options, plan, Wanted(*wanted)


class LinearOp:
    """A public function's two ops. Registers all but their schemas."""

    places: tuple[int, ...] = (0, 1, 2)
    """Of the arguments to which the results of the backward op belong; the first three are those of `wanted`."""

    def __init__(self, name: str, signature: Signature[Any, Any], saved: slice, reference: str) -> None:
        """`saved` are the results that the backward op takes; `reference` is a function with a second derivative."""
        self._name, self._signature, self._saved, self._reference = name, signature, saved, reference

    def register(
        self,
        library: Library,
        forward: Callable[..., tuple[Tensor, ...]],
        backward: Callable[..., tuple[Tensor, ...]],
        empty_results: Callable[..., tuple[Tensor, ...]],
    ) -> None:
        """Implementations for every device; `empty_results` takes what `Signature.split_forward` gives."""
        names = [f"{self._name}_{direction}" for direction in ("fwd", "bwd")]
        for name, implementation in zip(names, (forward, backward), strict=True):
            library.impl(name, implementation, "CompositeExplicitAutograd")
        register_compute_dtype(library, names[0], self._signature.compute_dtype)
        forward_op, backward_op = (f"fluxcore::{name}" for name in names)
        register_fake(forward_op, lambda *args: empty_results(*self._signature.split_forward(args)), lib=library)
        register_fake(backward_op, self.empty_gradients, lib=library)
        register_autograd(forward_op, self.differentiate, setup_context=self.save, lib=library)
        register_autograd(backward_op, self._refuse_double_backward, lib=library)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward op takes."""
        tensors, end = self._signature.tensors, self._signature.end
        ctx.save_for_backward(*inputs[:tensors], *output[self._saved])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.options = inputs[tensors:end]
        ctx.count = len(inputs)

    def differentiate(self, ctx: Any, upstream: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
        """Gradients of the forward op's arguments; None for all but those needed at `places`."""
        found: list[Tensor | None] = [None] * ctx.count
        if upstream is None:
            return tuple(found)
        needed = [ctx.needs_input_grad[place] for place in self.places]
        gradients = self.gradients(ctx, upstream, needed[:3])
        for place, need, value in zip(self.places, needed, gradients, strict=True):
            found[place] = value if need else None
        return tuple(found)

    def gradients(self, ctx: Any, upstream: Tensor, needed: list[bool]) -> tuple[Tensor, ...]:
        """At `places`, as the backward op makes them."""
        op = getattr(torch.ops.fluxcore, f"{self._name}_bwd")
        gradients: tuple[Tensor, ...] = op(upstream, *ctx.saved_tensors, *ctx.options, needed)
        return gradients

    def empty_gradients(self, *args: Any) -> tuple[Tensor, ...]:
        """Of the shapes and dtypes of the backward op's results, which has these arguments."""
        hidden, weight, bias = args[1:4]
        return no_gradients(hidden, weight, bias, Wanted(*args[-1]))

    def _refuse_double_backward(self, ctx: object, *_: object) -> None:
        raise RuntimeError(
            f"`{self._name}` can be differentiated once, and a second derivative was asked for"
            f"\n\n`fluxcore.reference.{self._reference}` of `torch.nn.functional.linear` is differentiable as often as "
            "you like."
        )


def register_compute_dtype(library: Library, name: str, place: int) -> None:
    """Let the op `name` compute in autocast's dtype, its argument at `place`, for input that autocast would cast."""
    op = getattr(torch.ops.fluxcore, name)
    for device_type, key in (("cpu", DispatchKey.AutocastCPU), ("cuda", DispatchKey.AutocastCUDA)):

        def rule(*args: Any, device_type: str = device_type, key: DispatchKey = key) -> Any:
            if args[0].dtype != torch.float64:
                args = (*args[:place], torch.get_autocast_dtype(device_type), *args[place + 1 :])
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
                return op(*args)

        library.impl(name, rule, key.name)


def compute_dtype_of(hidden: Tensor) -> torch.dtype:
    """The dtype of the matrix products of a call with these hidden states here."""
    device_type = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return hidden.dtype
