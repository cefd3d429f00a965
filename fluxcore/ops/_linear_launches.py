"""What the ops behind the linear functions launch and move: products with the head, and row kernels on their logits.

Letters: N rows, V classes, D hidden size, C rows of a chunk. The launches of all chunks are counted together, in the
order of those of one; every row is taken to count.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fluxcore.ops import _cross_entropy_backends, _kl_div_backends, _softmax_stats_backends
from fluxcore.ops._cross_entropy_schedule import cross_entropy_bwd, cross_entropy_fwd
from fluxcore.ops._kl_div_schedule import kl_div_bwd, kl_div_fwd
from fluxcore.ops._linear_head import Wanted
from fluxcore.ops._linear_schedule import Passes, row_bytes, rows_of_chunk
from fluxcore.ops._softmax_stats_schedule import softmax_stats_bwd, softmax_stats_fwd
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_NOTHING = Wanted(False, False, False)
_ROWS_FIRST = ("target", "token_weight", "penalty_mask", "argmax", "top_index")
_ROWS_LAST = ("grads", "state", "upstream")


class _Head(NamedTuple):
    """The products of a pass over one head, as `LinearHead` makes them."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    accumulate: torch.dtype
    wanted: Wanted
    rows: int
    """C"""
    workspace_bytes: int

    def logits(self, count: int) -> Tensor:
        """[count, V] without memory."""
        return self.hidden.new_empty((count, self.weight.shape[0]), dtype=self.dtype)

    def make_logits(self, count: int) -> list[Launch]:
        """The product of `count` rows with the weight."""
        read = self._bytes(count * self.hidden.shape[1] + self.weight.numel()) + nbytes(self.bias)
        return [self._product("logits", count, read, self._bytes(count * self.weight.shape[0]))]

    def make_gradients(self, count: int) -> list[Launch]:
        """What `LinearHead.add` does with the gradient of the logits of `count` rows."""
        (V, D), launches = self.weight.shape, []
        gradient, hidden = self._bytes(count * V), self._bytes(count * D)
        if self.wanted.input:
            read = gradient + self._bytes(V * D)
            launches.append(self._product("gradient of input", count, read, hidden))
        if self.wanted.weight:
            sums = V * D * self.accumulate.itemsize
            launches.append(self._product("gradient of weight", count, gradient + hidden + sums, sums))
        if self.wanted.bias:
            sums = V * self.accumulate.itemsize
            launches.append(Launch(kernel="sum, gradient of bias", bytes_read=gradient + sums, bytes_written=sums))
        return launches

    def _bytes(self, elements: int) -> int:
        return elements * self.dtype.itemsize

    def _product(self, what: str, count: int, read: int, written: int) -> Launch:
        flop = 2 * count * self.weight.numel()
        return Launch(kernel=f"product, {what}", bytes_read=read, bytes_written=written, flop=flop)


def _head(call: OpCall, machine: Machine, wanted: Wanted, buffers: int, others: int = 0, prefix: str = "") -> _Head:
    hidden, weight, bias = (call.inputs[prefix + name] for name in ("input", "linear_weight", "linear_bias"))
    dtype = call.inputs["compute_dtype"] or hidden.dtype
    accumulate = call.inputs["accumulate"] or torch.promote_types(dtype, torch.float32)
    (N, D), V = hidden.shape, weight.shape[0]
    passes = Passes(wanted.input, wanted.weight, buffers + others)
    rows, device_type = call.inputs["rows"], machine.device.type
    rows = rows_of_chunk(N, V, dtype, device_type, passes, call.inputs["workspace_bytes"], rows, accumulate)
    # Sums in another dtype than the gradient's are kept apart from it, and so is a weight converted for the products.
    apart = V * D * accumulate.itemsize if wanted.weight and accumulate != weight.dtype else 0
    apart += V * D * dtype.itemsize if dtype != weight.dtype else 0
    apart += rows * D * dtype.itemsize if wanted.input else 0
    workspace = row_bytes(V, dtype, passes) * rows + apart
    return _Head(hidden, weight, bias, dtype, accumulate, wanted, rows, workspace)


def linear_softmax_stats_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk, then their statistics."""
    head = _head(call, machine, _NOTHING, buffers=1)

    def chunk(count: int) -> list[Launch]:
        logits = head.logits(count)
        inputs = _of_rows(call, logits, count)
        results = _softmax_stats_backends.empty_results(logits, inputs["outputs"], inputs["top_k"])
        return [*head.make_logits(count), *softmax_stats_fwd(OpCall(inputs, results), machine)]

    return _in_chunks(head, chunk)


def linear_softmax_stats_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk again, their gradient, and the products with it."""
    head = _head(call, machine, Wanted(*call.inputs["wanted"]), buffers=2)

    def chunk(count: int) -> list[Launch]:
        logits = head.logits(count)
        own = softmax_stats_bwd(OpCall(_of_rows(call, logits, count), (logits,)), machine)
        return [*head.make_logits(count), *own, *head.make_gradients(count)]

    return _in_chunks(head, chunk)


def linear_cross_entropy_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk, their loss, and for a scalar loss the gradients while they are there."""
    wanted = Wanted(*call.inputs["wanted"])
    now = any(wanted)
    head = _head(call, machine, wanted, buffers=2 if now else 1)

    def chunk(count: int) -> list[Launch]:
        logits = head.logits(count)
        inputs = _of_rows(call, logits, count) | {"reduction": "given", "with_gradient": now}
        options = _cross_entropy_backends.Options(*(inputs[name] for name in _cross_entropy_backends.Options._fields))
        results = _cross_entropy_backends.empty_results(logits, options, now)
        own = cross_entropy_fwd(OpCall(inputs, results), machine)
        return [*head.make_logits(count), *own, *head.make_gradients(count)]

    return _in_chunks(head, chunk) + _sum_of_rows(call)


def linear_cross_entropy_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """As the backward pass of `linear_softmax_stats`."""
    head = _head(call, machine, Wanted(*call.inputs["wanted"]), buffers=2)

    def chunk(count: int) -> list[Launch]:
        logits = head.logits(count)
        own = cross_entropy_bwd(OpCall(_of_rows(call, logits, count), (logits,)), machine)
        return [*head.make_logits(count), *own, *head.make_gradients(count)]

    return _in_chunks(head, chunk)


def linear_kl_div_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of both heads, then their divergence."""
    policy, ref = _two_heads(call, machine, _NOTHING, buffers=1)

    def chunk(count: int) -> list[Launch]:
        logits, ref_logits = policy.logits(count), ref.logits(count)
        inputs = _of_rows(call, logits, count) | {"ref_logits": ref_logits, "reduction": "none"}
        results = _kl_div_backends.empty_results(logits, "none")
        own = kl_div_fwd(OpCall(inputs, results), machine)
        return [*policy.make_logits(count), *_of_reference(ref.make_logits(count)), *own]

    return _in_chunks(policy, chunk) + _sum_of_rows(call)


def linear_kl_div_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of both heads again, the policy's gradient, and the products with it."""
    policy, ref = _two_heads(call, machine, Wanted(*call.inputs["wanted"]), buffers=2)

    def chunk(count: int) -> list[Launch]:
        logits, ref_logits = policy.logits(count), ref.logits(count)
        inputs = _of_rows(call, logits, count) | {"ref_logits": ref_logits}
        own = kl_div_bwd(OpCall(inputs, (logits,)), machine)
        products = [*policy.make_logits(count), *_of_reference(ref.make_logits(count))]
        return [*products, *own, *policy.make_gradients(count)]

    return _in_chunks(policy, chunk)


def _two_heads(call: OpCall, machine: Machine, wanted: Wanted, buffers: int) -> tuple[_Head, _Head]:
    """The policy's, whose workspace is for both, and the reference's, in chunks of the same rows."""
    policy = _head(call, machine, wanted, buffers, others=1)
    return policy, _head(call, machine, _NOTHING, buffers=1, prefix="ref_")


def _of_reference(launches: list[Launch]) -> list[Launch]:
    return [replace(launch, kernel=f"{launch.kernel} of the reference") for launch in launches]


def _of_rows(call: OpCall, logits: Tensor, count: int) -> dict[str, Any]:
    """The inputs of the row kernels on a chunk of `count` rows, by the names of the op on logits."""
    inputs = dict(call.inputs) | {"logits": logits}
    for dim, names in ((0, _ROWS_FIRST), (-1, _ROWS_LAST)):
        for name in names:
            value = inputs.get(name)
            if value is not None and value.dim() > 0:
                inputs[name] = value.narrow(dim, 0, count)
    return inputs


def _in_chunks(head: _Head, chunk: Callable[[int], list[Launch]]) -> list[Launch]:
    """The launches of all chunks, those of one kernel together."""
    N, C = head.hidden.shape[0], head.rows
    full, rest = divmod(N, C)
    chunks = full + (rest > 0)
    found: dict[str, Launch] = {}
    for count, times in ((C, full), (rest, min(rest, 1))):
        for launch in chunk(count) if times else ():
            found[launch.kernel] = _add(found.get(launch.kernel), launch, times)
    each = f"{chunks} chunk{'s' if chunks > 1 else ''} of {C} rows"
    return [
        replace(
            launch,
            work=f"{each}; {launch.work}" if launch.work else each,
            workspace_bytes=launch.workspace_bytes + head.workspace_bytes,
        )
        for launch in found.values()
    ]


_COUNTED = ("bytes_read", "bytes_written", "bytes_reread", "exps", "flop")


def _add(sum_: Launch | None, launch: Launch, times: int) -> Launch:
    """`sum_` and `times` more of `launch`; its shape is that of the first."""
    counted = {name: times * getattr(launch, name) for name in _COUNTED}
    if sum_ is None:
        return replace(launch, **counted, launches=times)
    return replace(
        sum_, **{name: getattr(sum_, name) + value for name, value in counted.items()}, launches=sum_.launches + times
    )


def _sum_of_rows(call: OpCall) -> list[Launch]:
    """The scalar loss from those of the rows."""
    loss = call.results[0]
    if call.inputs["reduction"] == "none":
        return []
    row_losses = call.inputs["input"].shape[0] * loss.element_size()
    return [Launch(kernel="sum of all rows", bytes_read=row_losses, bytes_written=nbytes(loss))]
