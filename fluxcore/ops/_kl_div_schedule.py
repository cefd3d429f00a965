"""What the op `kl_div` launches and moves."""

from fluxcore.ops._row_schedule import row_walk
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_INPUTS = ("logits", "ref_logits", "token_weight")


def kl_div_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The rows of both logits, then their sum; the C++ function does the two in one call."""
    inputs = call.inputs
    loss, state, totals = call.results
    reduces = inputs["reduction"] != "none"
    row_losses = inputs["logits"].shape[0] * (8 if machine.backend == "cpp" else loss.element_size())
    workspace = row_losses if reduces or machine.backend == "cpp" else 0
    total = Launch(
        kernel="sum of rows" if machine.backend == "cpp" else "kl_div_total_kernel",
        bytes_read=row_losses + nbytes(inputs["token_weight"]),
        bytes_written=nbytes(loss, totals),
    )
    written = nbytes(state) + row_losses
    if inputs["direction"] == "jsd":
        return [*_rows(call, machine, "twice", written, workspace), total]
    near = _rows(call, machine, "near", written, workspace)
    if machine.backend == "cpp":
        return [*near, total]
    # The kernel for jsd goes over the rows that the first found far apart. How many those are depends on the logits:
    # counted is none.
    return [*near, *_rows(call, machine, "twice", 0, workspace), total]


def _rows(call: OpCall, machine: Machine, kind: str, written: int, workspace: int) -> list[Launch]:
    """The kernels over the rows: "near", one read; "twice", two reads, or with `written` 0 no more than a look."""
    logits, ref_logits, token_weight = (call.inputs[name] for name in _INPUTS)
    walk = row_walk(logits, machine, max_splits=_max_splits(machine))
    numbers = {"near": 7, "twice": 8}[kind]
    parts = logits.shape[0] * walk.splits * numbers * call.results[1].element_size() if walk.splits > 1 else 0
    # Where rows are split, the second read is a launch of its own, and no cache holds the logits until then.
    both_reads = kind == "twice" and written > 0 and not parts
    looked_at = 4 * logits.shape[0]
    rows = Launch(
        kernel="kl_div_fwd" if machine.backend == "cpp" else f"kl_div_{kind}_kernel",
        regime=walk.regime,
        work=walk.work,
        bytes_read=nbytes(logits, ref_logits, token_weight) if written else looked_at,
        bytes_written=(parts or written) if written else 0,
        bytes_reread=nbytes(logits, ref_logits) if both_reads else 0,
        exps=logits.numel() * (4 if both_reads else 2) if written else 0,
        workspace_bytes=workspace + parts + looked_at,
    )
    if not parts:
        return [rows]
    merge = Launch(
        kernel=f"kl_div_{kind}_merge_kernel",
        work=f"grid {logits.shape[0]}",
        bytes_read=parts if written else looked_at,
        bytes_written=written,
        workspace_bytes=workspace + parts,
    )
    return [rows, rows, merge] if kind == "twice" else [rows, merge]


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
