"""What the ops behind the linear functions launch and move: products with the head, and row kernels on their logits.

The launches of all chunks are counted together, in the order of those of one; every row is taken to count, or as many
as `LinearOptions.live_rows` says.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fluxcore.ops import _cross_entropy_backends, _kl_div_backends, _softmax_stats_backends
from fluxcore.ops._cross_entropy_backends import Options
from fluxcore.ops._cross_entropy_schedule import cross_entropy_bwd, cross_entropy_fwd
from fluxcore.ops._kl_div_schedule import kl_div_bwd, kl_div_fwd
from fluxcore.ops._linear_cross_entropy_parts import is_mergeable
from fluxcore.ops._linear_fused_launches import fused_statistics
from fluxcore.ops._linear_head import Wanted
from fluxcore.ops._linear_products import NOTHING, Head, head_of, in_chunks
from fluxcore.ops._linear_schedule import Tile
from fluxcore.ops._softmax_stats_schedule import softmax_stats_bwd, softmax_stats_fwd
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_ROWS_FIRST = ("target", "token_weight", "penalty_mask", "argmax", "top_index")
_ROWS_LAST = ("grads", "state", "upstream")
_LOSS_OUTPUTS = 7  # the statistics that a loss may be made of


def linear_softmax_stats_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk, then their statistics; or both in one kernel."""
    fused = fused_statistics(call, machine, mergeable=call.inputs["top_k"] == 0)
    if fused:
        return fused
    head = head_of(call, machine, NOTHING, mergeable=call.inputs["top_k"] == 0, every_row=True)
    return in_chunks(head, lambda chunk: _statistics(head, chunk, call, machine))


def linear_softmax_stats_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk again, their gradient, and the products with it."""
    wanted = Wanted(*call.inputs["wanted"])
    head = head_of(call, machine, wanted, mergeable=call.inputs["top_k"] == 0)
    return in_chunks(head, lambda chunk: _gradients_of_statistics(head, chunk, call, machine))


def linear_cross_entropy_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of each chunk, their loss, and for a scalar loss the gradients while all logits of a row are there."""
    wanted = Wanted(*call.inputs["wanted"])
    now = any(wanted)
    options = Options(*(call.inputs[name] for name in Options._fields))
    mergeable = is_mergeable(options, call.inputs["target"])
    fused = [] if now else fused_statistics(call, machine, mergeable=mergeable)
    if fused:
        return fused + _sum_of_rows(call)
    head = head_of(call, machine, wanted, mergeable=mergeable, at_once=now, every_row=options.outputs != 0)

    def launches_of(chunk: Tile) -> list[Launch]:
        if not head.is_whole:
            launches = _statistics(head, chunk, call, machine)
            return launches + (_gradients_of_statistics(head, chunk, call, machine) if now else [])
        logits = head.logits(chunk)
        inputs = _of_chunk(call, logits) | {"reduction": "given", "with_gradient": now}
        results = _cross_entropy_backends.empty_results(logits, options._replace(reduction="given"), now)
        own = cross_entropy_fwd(OpCall(inputs, results), machine)
        return [*head.make_logits(chunk), *own, *head.make_gradients(chunk)]

    return in_chunks(head, launches_of) + _sum_of_rows(call)


def linear_cross_entropy_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """As the backward pass of `linear_softmax_stats`."""
    options = Options(*(call.inputs[name] for name in Options._fields))
    wanted, mergeable = Wanted(*call.inputs["wanted"]), is_mergeable(options, call.inputs["target"])
    head = head_of(call, machine, wanted, mergeable=mergeable)

    def launches_of(chunk: Tile) -> list[Launch]:
        if not head.is_whole:
            return _gradients_of_statistics(head, chunk, call, machine)
        logits = head.logits(chunk)
        own = cross_entropy_bwd(OpCall(_of_chunk(call, logits), (logits,)), machine)
        return [*head.make_logits(chunk), *own, *head.make_gradients(chunk)]

    return in_chunks(head, launches_of)


def linear_kl_div_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of both heads, then their divergence."""
    policy, ref = _two_heads(call, machine, NOTHING)

    def launches_of(chunk: Tile) -> list[Launch]:
        logits, ref_logits = policy.logits(chunk), ref.logits(chunk)
        inputs = _of_chunk(call, logits) | {"ref_logits": ref_logits, "reduction": "none"}
        results = _kl_div_backends.empty_results(logits, "none")
        own = kl_div_fwd(OpCall(inputs, results), machine)
        return [*policy.make_logits(chunk), *_of_reference(ref.make_logits(chunk)), *own]

    return in_chunks(policy, launches_of) + _sum_of_rows(call)


def linear_kl_div_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of both heads again, the policy's gradient, and the products with it."""
    policy, ref = _two_heads(call, machine, Wanted(*call.inputs["wanted"]))

    def launches_of(chunk: Tile) -> list[Launch]:
        logits, ref_logits = policy.logits(chunk), ref.logits(chunk)
        inputs = _of_chunk(call, logits) | {"ref_logits": ref_logits}
        own = kl_div_bwd(OpCall(inputs, (logits,)), machine)
        products = [*policy.make_logits(chunk), *_of_reference(ref.make_logits(chunk))]
        return [*products, *own, *policy.make_gradients(chunk)]

    return in_chunks(policy, launches_of)


def _two_heads(call: OpCall, machine: Machine, wanted: Wanted) -> tuple[Head, Head]:
    """The policy's, whose workspace is for both, and the reference's, in chunks of the same rows."""
    policy = head_of(call, machine, wanted, others=1)
    return policy, head_of(call, machine, NOTHING, prefix="ref_")


def _of_reference(launches: list[Launch]) -> list[Launch]:
    return [replace(launch, kernel=f"{launch.kernel} of the reference") for launch in launches]


def _statistics(head: Head, chunk: Tile, call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of a chunk and their statistics, and what merges them with those of other classes."""
    logits = head.logits(chunk)
    inputs = {"top_k": 0} | _of_chunk(call, logits)
    results = _softmax_stats_backends.empty_results(logits, inputs["outputs"] or _LOSS_OUTPUTS, inputs["top_k"])
    launches = [*head.make_logits(chunk), *softmax_stats_fwd(OpCall(inputs, results), machine)]
    if not head.is_whole:
        state = 6 * 8 * chunk.rows
        launches.append(Launch(kernel="merge of row states", bytes_read=2 * state, bytes_written=state))
    return launches


def _gradients_of_statistics(head: Head, chunk: Tile, call: OpCall, machine: Machine) -> list[Launch]:
    """The logits of a chunk, their gradient for upstream gradients of statistics, and the products with it."""
    logits = head.logits(chunk, extra=True)
    inputs = _of_chunk(call, logits)
    own = softmax_stats_bwd(OpCall(dict.fromkeys(_SAVED) | inputs, (logits,)), machine)
    return [*head.make_logits(chunk), *own, *head.make_gradients(chunk)]


_SAVED = ("grads", "argmax", "state", "top_index")
"""Of a loss these are made row by row, and of no account."""


def _of_chunk(call: OpCall, logits: Tensor) -> dict[str, Any]:
    """The inputs of the row kernels on the logits of a chunk, by the names of the op on logits."""
    inputs = dict(call.inputs) | {"logits": logits}
    for dim, names in ((0, _ROWS_FIRST), (-1, _ROWS_LAST)):
        for name in names:
            value = inputs.get(name)
            if value is not None and value.dim() > 0:
                inputs[name] = value.narrow(dim, 0, logits.shape[0])
    return inputs


def _sum_of_rows(call: OpCall) -> list[Launch]:
    """The scalar loss from those of the rows."""
    loss = call.results[0]
    if call.inputs["reduction"] == "none":
        return []
    row_losses = call.inputs["input"].shape[0] * loss.element_size()
    return [Launch(kernel="sum of all rows", bytes_read=row_losses, bytes_written=nbytes(loss))]
