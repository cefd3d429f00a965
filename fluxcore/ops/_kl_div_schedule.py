"""What the op `kl_div` launches and moves."""

from fluxcore.ops._row_schedule import row_walk
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_INPUTS = ("logits", "ref_logits", "token_weight")


def kl_div_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The rows of both logits, then their sum; the C++ function does the two in one call."""
    inputs = call.inputs
    loss, state, totals = call.results
    logits = inputs["logits"]
    reduces = inputs["reduction"] != "none"
    row_losses = logits.shape[0] * (8 if machine.backend == "cpp" else loss.element_size()) if reduces else 0
    walk = row_walk(logits, machine, max_splits=_max_splits(machine))
    rows = Launch(
        kernel="kl_div_fwd" if machine.backend == "cpp" else "kl_div_fwd_kernel",
        regime=walk.regime,
        work=walk.work,
        bytes_read=nbytes(*(inputs[name] for name in _INPUTS)),
        bytes_written=nbytes(state, totals) + (row_losses or nbytes(loss)),
        bytes_reread=nbytes(logits, inputs["ref_logits"]),
        exps=4 * logits.numel(),
        workspace_bytes=row_losses,
    )
    if not reduces:
        return [rows]
    name = "sum of rows" if machine.backend == "cpp" else "kl_div_sum_kernel"
    return [rows, Launch(kernel=name, bytes_read=row_losses, bytes_written=nbytes(loss))]


def kl_div_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """One read of both logits, one write of the gradient to the first."""
    inputs = call.inputs
    walk = row_walk(inputs["logits"], machine, max_splits=_max_splits(machine))
    return [
        Launch(
            kernel="kl_div_bwd" if machine.backend == "cpp" else "kl_div_bwd_kernel",
            regime=walk.regime,
            work=walk.work,
            bytes_read=nbytes(*(inputs[name] for name in (*_INPUTS, "upstream", "state", "totals"))),
            bytes_written=nbytes(*call.results),
            exps=2 * inputs["logits"].numel(),
        )
    ]


def _max_splits(machine: Machine) -> int:
    if machine.backend == "cpp":
        return 1
    from fluxcore.kernels.softmax_stats import MAX_SPLITS

    return MAX_SPLITS
