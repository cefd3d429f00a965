"""What the ops behind `cross_entropy` launch and move."""

from torch import Tensor

from fluxcore.ops._row_schedule import has_edges, row_walk
from fluxcore.schedule import Launch, Machine, OpCall, nbytes

_ROW_INPUTS = ("target", "weight", "token_weight", "penalty_mask")


def cross_entropy_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """Divisors of the reduction, then the rows, then their sum; the C++ function does the three in one call."""
    inputs = call.inputs
    loss, totals = call.results[0], call.results[5]
    if inputs["reduction"] == "given":  # rows of a larger whole: divisors are an input, losses stay rows
        return _rows(call, machine, 0)
    reduces = inputs["reduction"] != "none"
    cpp = machine.backend == "cpp"
    # The C++ function keeps the rows' losses in double.
    row_losses = inputs["logits"].shape[0] * (8 if cpp else loss.element_size()) if reduces else 0
    launches = [
        Launch(
            kernel="totals" if cpp else "cross_entropy_totals_kernel",
            bytes_read=_read_by_totals(call),
            bytes_written=nbytes(totals),
        ),
        *_shifted_weights(call, machine),
        *_rows(call, machine, row_losses),
    ]
    if reduces:
        name = "sum of rows" if cpp else "cross_entropy_sum_kernel"
        launches.append(Launch(kernel=name, bytes_read=row_losses + nbytes(totals), bytes_written=nbytes(loss)))
    return launches


def _shifted_weights(call: OpCall, machine: Machine) -> list[Launch]:
    """Class weights that every row sums, copied so that each row reads them by aligned vectors."""
    logits, weight = call.inputs["logits"], call.inputs["weight"]
    if machine.backend == "cpp" or weight is None or not _has_shares(call) or not has_edges(logits):
        return []
    vec = 16 // logits.element_size()
    written = (logits.shape[1] + vec - 1) // vec * vec * vec * weight.element_size()
    name = "shift_weights_kernel"
    return [Launch(kernel=name, bytes_read=nbytes(weight), bytes_written=written, workspace_bytes=written)]


def _read_by_totals(call: OpCall) -> int:
    inputs = call.inputs
    read = nbytes(inputs["weight"])
    if inputs["reduction"] in ("mean", "token_mean"):
        read += nbytes(inputs["token_weight"], inputs["penalty_mask"])
        # No divisor depends on the probabilities, which are as large as the logits.
        read += 0 if inputs["target"].is_floating_point() else nbytes(inputs["target"])
    return read


def _rows(call: OpCall, machine: Machine, row_losses: int) -> list[Launch]:
    """The kernel over the rows; rows that are split leave their parts to others, which also make the gradient."""
    inputs = call.inputs
    loss, stats, argmax, state, top_index, _, gradient = call.results
    logits, fused = inputs["logits"], inputs["with_gradient"]
    cpp = machine.backend == "cpp"
    threads, per_lane = _threads(call, machine), _per_lane(call, machine)
    max_splits = _max_splits(machine, inputs["top_k"])
    walk = row_walk(logits, machine, max_splits=max_splits, threads=threads, per_lane=per_lane)
    read = nbytes(logits, *(inputs[name] for name in _ROW_INPUTS))
    results = nbytes(stats, argmax, state, top_index) + (row_losses or nbytes(loss))
    exps = logits.numel() * exps_an_element(call)
    parts = 0
    if walk.splits > 1:
        numbers = 8 if _has_shares(call) or inputs["target"].is_floating_point() else 5
        parts = logits.shape[0] * walk.splits * (numbers * state.element_size() + 4)
    in_one = fused and not parts
    rereads = in_one + (cpp and _has_shares(call)) + bool(inputs["top_k"])
    rows = Launch(
        kernel="cross_entropy_fwd" if cpp else "cross_entropy_fwd_kernel",
        regime=walk.regime,
        work=walk.work,
        bytes_read=read,
        bytes_written=parts or results + nbytes(gradient),
        bytes_reread=rereads * nbytes(logits),
        exps=exps * (2 if in_one else 1),
        workspace_bytes=row_losses + parts,
    )
    if not parts:
        return [rows]
    merge = Launch(
        kernel="cross_entropy_merge_kernel",
        work=f"grid {logits.shape[0]}",
        bytes_read=parts + read - nbytes(logits),
        bytes_written=results,
        workspace_bytes=row_losses + parts,
    )
    if not fused:
        return [rows, merge]
    one = Launch(kernel="aten::ones", bytes_read=0, bytes_written=state.element_size())
    return [rows, merge, one, _gradient(call, machine, nbytes(argmax, state, top_index), nbytes(gradient))]


def cross_entropy_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """One read of the logits, one write of their gradient; class weights are copied again."""
    saved = nbytes(*(call.inputs[name] for name in ("upstream", "argmax", "state", "top_index", "totals")))
    return [*_shifted_weights(call, machine), _gradient(call, machine, saved, nbytes(*call.results))]


def _gradient(call: OpCall, machine: Machine, saved_bytes: int, gradient_bytes: int) -> Launch:
    logits, kernel, max_splits = call.inputs["logits"], "cross_entropy_bwd", 1
    if machine.backend == "triton":
        from fluxcore.kernels.row_gradient import MAX_SPLITS

        kernel, max_splits = "cross_entropy_bwd_kernel", MAX_SPLITS
    walk = row_walk(logits, machine, max_splits=max_splits)
    return Launch(
        kernel=kernel,
        regime=walk.regime,
        work=walk.work,
        bytes_read=nbytes(logits, *(call.inputs[name] for name in _ROW_INPUTS)) + saved_bytes,
        bytes_written=gradient_bytes,
        exps=logits.numel() * exps_an_element(call),
    )


def scale_(call: OpCall, machine: Machine) -> list[Launch]:
    """Reads one number, and touches the gradient only if that is not 1; counted for 1, as `loss.backward()` has it."""
    name = "scale_" if machine.backend == "cpp" else "scale_kernel"
    return [Launch(kernel=name, bytes_read=nbytes(call.inputs["scale"]), bytes_written=0)]


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


def _threads(call: OpCall, machine: Machine) -> int | None:
    """Threads of a program that has a row to itself, in the forward pass."""
    if machine.backend == "cpp" or not call.inputs["with_gradient"]:
        return None
    from fluxcore.kernels.cross_entropy import is_crowded, threads_to_read_twice

    given = (call.inputs[name] for name in ("target", "weight", "link", "top_k", "softcap"))
    logits = call.inputs["logits"]
    return threads_to_read_twice(logits, is_crowded(logits, *given))


def _per_lane(call: OpCall, machine: Machine) -> int | None:
    """Elements of a short row that a thread takes, in the forward pass."""
    if machine.backend == "cpp":
        return None
    from fluxcore.kernels.cross_entropy import lane_elements

    return lane_elements(*(call.inputs[name] for name in ("target", "weight", "link", "label_smoothing")))
