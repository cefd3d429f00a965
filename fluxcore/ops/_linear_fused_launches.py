"""What the product with the statistics in its epilogue launches and moves; for `_linear_launches.py`."""

from fluxcore.ops._linear_fused import is_fused, product_of, product_rate
from fluxcore.ops._linear_head import Plan
from fluxcore.ops._softmax_stats_schedule import exps_an_element
from fluxcore.schedule import Launch, Machine, OpCall, nbytes


def fused_statistics(call: OpCall, machine: Machine, *, mergeable: bool) -> list[Launch]:
    """The kernel over blocks of logits, and the merge of what its programs leave; none if the call is not fused."""
    plan = Plan(*(call.inputs[name] for name in Plan._fields))
    hidden, weight, bias, target = (call.inputs[name] for name in ("input", "linear_weight", "linear_bias", "target"))
    product = product_of(hidden, weight, plan)
    if not is_fused(product, machine.backend, machine.device.type, plan, mergeable=mergeable):
        return []
    from fluxcore.kernels.linear_stats import parts_bytes, plan_product

    N, V, D, dtype = product
    launch = plan_product(N, V, dtype.itemsize, call.inputs["outputs"], machine.programs)
    parts = parts_bytes(N, launch.splits)
    operands = [value for value in (hidden, weight, bias) if value is not None]
    converted = sum(value.numel() for value in operands if value.dtype != dtype) * dtype.itemsize
    grid = " x ".join(map(str, launch.grid))
    return [
        Launch(
            kernel="linear_stats_fwd_kernel",
            regime="fused",
            work=f"grid {grid}, {launch.block_rows} rows x {launch.block_classes} classes at a time",
            bytes_read=sum(value.numel() for value in operands) * dtype.itemsize + nbytes(target),
            bytes_written=parts,
            exps=N * V * exps_an_element(call.inputs["softcap"]),
            flop=2 * N * V * D,
            product_rate=product_rate(dtype),
            workspace_bytes=parts + converted,
        ),
        Launch(
            kernel="linear_stats_merge_kernel",
            bytes_read=parts + nbytes(target),
            bytes_written=nbytes(*call.results),
            workspace_bytes=parts + converted,
        ),
    ]
