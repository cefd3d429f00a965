"""What the ops `softmax_stats` and `selective_log_softmax` launch and move."""

from torch import Tensor

from fluxcore.ops._row_schedule import row_walk
from fluxcore.ops._softmax_stats_backends import empty_results
from fluxcore.schedule import Launch, Machine, OpCall, nbytes


def softmax_stats_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """One read of the logits; rows that are split leave their parts for a second kernel."""
    logits, target, top_k = (call.inputs[name] for name in ("logits", "target", "top_k"))
    results = nbytes(*call.results)
    exps = logits.numel() * exps_an_element(call.inputs["softcap"])
    if machine.backend == "cpp":
        walk = row_walk(logits, machine, max_splits=1)
        return [
            Launch(
                kernel="softmax_stats_fwd",
                regime=walk.regime,
                work=walk.work,
                bytes_read=nbytes(logits, target),
                bytes_written=results,
                exps=exps,
            )
        ]
    from fluxcore.kernels.softmax_stats import MAX_SPLITS

    walk = row_walk(logits, machine, max_splits=1 if top_k else MAX_SPLITS)
    parts = _parts_bytes(logits, walk.splits)
    rows_kernel = Launch(
        kernel="softmax_stats_fwd_kernel",
        regime=walk.regime,
        work=walk.work,
        bytes_read=nbytes(logits) if parts else nbytes(logits, target),
        bytes_written=parts or results,
        bytes_reread=nbytes(logits) if top_k else 0,
        exps=exps,
        workspace_bytes=parts,
    )
    if not parts:
        return [rows_kernel]
    merge = Launch(
        kernel="softmax_stats_merge_kernel",
        work=f"grid {logits.shape[0]}",
        bytes_read=parts + nbytes(target),
        bytes_written=results,
    )
    return [rows_kernel, merge]


def softmax_stats_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """One read of the logits, one write of their gradient."""
    logits = call.inputs["logits"]
    rest = ("grads", "logits", "target", "state", "argmax", "top_index")
    kernel, max_splits = "softmax_stats_bwd", 1
    if machine.backend == "triton":
        from fluxcore.kernels.row_gradient import MAX_SPLITS

        kernel, max_splits = "softmax_stats_bwd_kernel", MAX_SPLITS
    walk = row_walk(logits, machine, max_splits=max_splits)
    return [
        Launch(
            kernel=kernel,
            regime=walk.regime,
            work=walk.work,
            bytes_read=nbytes(*(call.inputs[name] for name in rest)),
            bytes_written=nbytes(*call.results),
            exps=logits.numel() * exps_an_element(call.inputs["softcap"]),
        )
    ]


def selective_log_softmax_fwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The sums of `softmax_stats` in one read of the logits, and the chosen ones again."""
    logits, index = call.inputs["logits"], call.inputs["index"]
    sums = OpCall({"logits": logits, "target": None, "top_k": 0, "softcap": 0.0}, empty_results(logits, 1, 0))
    chosen = index.numel() * logits.element_size()
    read, written = nbytes(index, *call.results[1:]) + chosen, nbytes(call.results[0])
    gather = Launch(kernel="gather", bytes_read=read, bytes_written=written, workspace_bytes=nbytes(index) + written)
    return [*softmax_stats_fwd(sums, machine), gather]


def selective_log_softmax_bwd(call: OpCall, machine: Machine) -> list[Launch]:
    """The gradient of the log-sum-exp, and those of the chosen classes written over it."""
    inputs = call.inputs
    logits, index, upstream = (inputs[name] for name in ("logits", "index", "upstream"))
    dense = {name: inputs[name] for name in ("logits", "argmax", "state")}
    dense |= {"grads": upstream[:, 0], "target": None, "top_index": None, "softcap": 0.0}
    places = nbytes(index) + nbytes(inputs["argmax"])
    chosen = places // 8 * logits.element_size()
    scatter = Launch(
        kernel="scatter",
        bytes_read=nbytes(index, upstream, inputs["argmax"], inputs["state"]) + chosen,
        bytes_written=chosen,
        workspace_bytes=2 * places,
    )
    return [*softmax_stats_bwd(OpCall(dense, call.results), machine), scatter]


def exps_an_element(softcap: float) -> int:
    """One, and one more for the tanh of a softcap."""
    return 2 if softcap else 1


def _parts_bytes(logits: Tensor, splits: int) -> int:
    """Of the parts of split rows: five numbers of the state's type and an int32 column each."""
    state = empty_results(logits, 1, 0)[2]
    return logits.shape[0] * splits * (5 * state.element_size() + 4) if splits > 1 else 0
