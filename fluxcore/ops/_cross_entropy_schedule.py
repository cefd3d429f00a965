"""What the ops behind `cross_entropy` launch and move."""

from torch import Tensor

from fluxcore.ops._row_schedule import row_walk
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_ROW_INPUTS = ("target", "weight", "token_weight", "penalty_mask")


def cross_entropy_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """Divisors of the reduction, then the rows, then their sum; the C++ function does the three in one call."""
    inputs = call.inputs
    loss, *_, totals, _ = call.results
    rest = call.results[1:5] + call.results[6:]
    logits, targets = inputs["logits"], tuple(inputs[name] for name in _ROW_INPUTS)
    reduces = inputs["reduction"] != "none"
    # Probabilities are as large as the logits, and no divisor depends on them.
    read_by_totals = nbytes(inputs["weight"])
    if inputs["reduction"] in ("mean", "token_mean"):
        read_by_totals += nbytes(*(value for value in targets[2:] if value is not None))
        read_by_totals += 0 if inputs["target"].is_floating_point() else nbytes(inputs["target"])
    walk = row_walk(logits, machine, max_splits=_max_splits(machine, inputs["top_k"]))
    rereads = inputs["with_gradient"] + (machine.backend == "cpp" and _has_shares(call)) + bool(inputs["top_k"])
    row_losses = logits.shape[0] * (8 if machine.backend == "cpp" else loss.element_size()) if reduces else 0
    rows = Launch(
        kernel="cross_entropy_fwd" if machine.backend == "cpp" else "cross_entropy_fwd_kernel",
        regime=walk.regime,
        work=walk.work,
        bytes_read=nbytes(logits, *targets),
        bytes_written=nbytes(*rest) + (row_losses or nbytes(loss)),
        bytes_reread=rereads * nbytes(logits),
        exps=logits.numel() * exps_an_element(call) * (2 if inputs["with_gradient"] else 1),
        workspace_bytes=row_losses,
    )
    totals_launch = Launch(
        kernel="totals" if machine.backend == "cpp" else "cross_entropy_totals_kernel",
        bytes_read=read_by_totals,
        bytes_written=nbytes(totals),
    )
    sum_launch = Launch(
        kernel="sum of rows" if machine.backend == "cpp" else "cross_entropy_sum_kernel",
        bytes_read=row_losses,
        bytes_written=nbytes(loss),
    )
    return [totals_launch, rows, sum_launch] if reduces else [totals_launch, rows]


def cross_entropy_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """One read of the logits, one write of their gradient."""
    logits = call.inputs["logits"]
    walk = row_walk(logits, machine, max_splits=_max_splits(machine, 0))
    read = (*_ROW_INPUTS, "upstream", "logits", "argmax", "state", "top_index", "totals")
    return [
        Launch(
            kernel="cross_entropy_bwd" if machine.backend == "cpp" else "cross_entropy_bwd_kernel",
            regime=walk.regime,
            work=walk.work,
            bytes_read=nbytes(*(call.inputs[name] for name in read)),
            bytes_written=nbytes(*call.results),
            exps=logits.numel() * exps_an_element(call),
        )
    ]


def scale_(call: OpCall, machine: Machine) -> list[Launch]:
    """Reads one number, and touches the gradient only if that is not 1; counted for 1, as `loss.backward()` has it."""
    scale = call.inputs["scale"]
    return [
        Launch(
            kernel="scale_" if machine.backend == "cpp" else "scale_kernel", bytes_read=nbytes(scale), bytes_written=0
        )
    ]


def exps_an_element(call: OpCall) -> int:
    """The exponential of the softmax and the tanh of a softcap; StableMax has neither, but a logarithm to smooth it."""
    if call.inputs["link"] == "stablemax":
        return 1 if _has_shares(call) else 0
    return 2 if call.inputs["softcap"] else 1


def _has_shares(call: OpCall) -> bool:
    """Whether every class has a part in the target."""
    target: Tensor = call.inputs["target"]
    return target.is_floating_point() or call.inputs["label_smoothing"] > 0


def _max_splits(machine: Machine, top_k: int) -> int:
    if machine.backend == "cpp" or top_k:
        return 1
    from fluxcore.kernels.softmax_stats import MAX_SPLITS

    return MAX_SPLITS
