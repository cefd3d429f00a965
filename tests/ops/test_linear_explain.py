"""What `explain` says of the linear ops, held against the calls themselves."""

import pytest
import torch
from support.products import CountProducts

import fluxcore
from fluxcore import LinearOptions
from fluxcore.explained_ops import OPS
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes
from fluxcore.ops import _linear_kl_div_op as kl_passes
from fluxcore.ops import _linear_softmax_stats_op as stats_passes
from fluxcore.ops._linear_head import LinearHead

N, D, V = 50, 16, 300
SHAPES = {"input": (N, D), "linear_weight": (V, D)}
WORKSPACE = 8 * V * 4  # of 8 rows, or of 4 of two heads
PASSES = {
    "linear_softmax_stats": stats_passes,
    "linear_cross_entropy": ce_passes,
    "linear_kl_div": kl_passes,
}
CALLS = [
    ("linear_softmax_stats", {"outputs": ("entropy", "lse")}),
    ("linear_cross_entropy", {}),
    ("linear_cross_entropy", {"reduction": "none"}),
    ("linear_kl_div", {"reduction": "sum"}),
]


def call(op, needs, **options):
    """Run it; matrix products' operations and chunks of logits of each pass."""
    tensors = {name: torch.randn(shape).requires_grad_(name in needs) for name, shape in SHAPES.items()}
    if op == "linear_kl_div":
        tensors |= {f"ref_{name}": torch.randn(shape) for name, shape in SHAPES.items()}
    elif op == "linear_cross_entropy":
        tensors["target"] = torch.randint(V, (N,))
    passes = PASSES[op]
    implementations = {f"fluxcore::{op}_fwd": passes.forward, f"fluxcore::{op}_bwd": passes.backward}
    with CountProducts(implementations) as forward:
        result = OPS[op].function(**tensors, **options)
    values = [value for value in (result if isinstance(result, tuple) else (result,)) if value is not None]
    with CountProducts(implementations) as backward:
        if needs:
            sum(value.sum() for value in values).backward()
    return forward.flop, backward.flop


@pytest.mark.parametrize("needs", [("input", "linear_weight"), ("input",), ()], ids=["both", "frozen head", "nothing"])
@pytest.mark.parametrize(("op", "options"), CALLS)
def test_products_and_chunks_are_those_of_the_call(op, options, needs, monkeypatch):
    made = []
    logits = LinearHead.logits
    monkeypatch.setattr(
        LinearHead, "logits", lambda self, *rows, **rest: made.append(self) or logits(self, *rows, **rest)
    )
    options = options | {"options": LinearOptions(workspace_bytes=WORKSPACE)}
    schedule = fluxcore.explain(op, SHAPES, requires_grad=needs, **options)
    passes = (schedule.forward, schedule.backward)
    assert tuple(sum(launch.flop for launch in launches) for launches in passes) == call(op, needs, **options)
    explained = [launch for launch in schedule.launches if launch.kernel.startswith("product, logits")]
    assert sum(launch.launches for launch in explained) == len(made)
    for launch in explained:
        # In chunks of classes the loss has to be known before the gradients are made from logits that are made again.
        again = 1 + (op == "linear_cross_entropy" and "classes" in launch.work and "none" not in options.values())
        assert f"{launch.launches // (again if needs else 1)} chunks of" in launch.work
    frozen_weight = "linear_weight" not in needs
    assert frozen_weight == all("gradient of weight" not in launch.kernel for launch in schedule.launches)
    # Beside the logits of a chunk the gradient of its input, before it is copied to its place.
    assert WORKSPACE / 2 < schedule.workspace_bytes <= WORKSPACE + 8 * D * 4 + 2 * 8 * N


def test_bytes_are_those_of_chunks_that_read_the_weight_anew():
    schedule = fluxcore.explain("linear_cross_entropy", SHAPES, options=LinearOptions(rows=20))
    launches = {launch.kernel: launch for launch in schedule.forward}
    weight, hidden, logits = V * D * 4, N * D * 4, N * V * 4
    product = launches["product, logits"]
    assert (product.launches, product.bytes_read, product.bytes_written) == (3, 3 * weight + hidden, logits)
    assert launches["product, gradient of input"].bytes_read == 3 * weight + logits
    sums = launches["product, gradient of weight"]
    assert (sums.bytes_read, sums.bytes_written) == (3 * weight + hidden + logits, 3 * weight)
    assert logits <= launches["cross_entropy_fwd"].bytes_written <= logits + 200 * N
    assert schedule.regime == "threads"


def test_time_is_that_of_bytes_and_products():
    rates = {"bandwidth_gb_per_s": 2.0, "tflop_per_s": 0.5}
    schedule = fluxcore.explain("linear_softmax_stats", SHAPES, outputs=("entropy",), **rates)
    moved = sum(launch.bytes_read + launch.bytes_written for launch in schedule.forward)
    rate = next(launch.product_rate for launch in schedule.forward if launch.flop)
    assert 0 < rate < 1  # of a CPU's product with few rows
    assert schedule.forward_ms == pytest.approx(moved / 2e6 + 2 * N * V * D / rate / 0.5e9)
    assert "times at 2.0 GB/s and 0.5 TFLOP/s" in str(schedule)
    planned = fluxcore.explain("linear_softmax_stats", SHAPES, outputs=("entropy",), bandwidth_gb_per_s=2.0)
    assert planned.tflop_per_s == pytest.approx(8 * 2e-3)  # 8 operations in the time of a byte, on a CPU
    assert planned.forward_ms > schedule.forward_ms


@pytest.mark.parametrize("rows", [8, 30, 500])
def test_products_of_few_rows_take_longer_than_their_operations(rows):
    shapes = {"input": (500, 768), "linear_weight": (8192, 768)}
    options = {"options": LinearOptions(rows=rows), "bandwidth_gb_per_s": 1e9, "tflop_per_s": 1.0}
    schedule = fluxcore.explain("linear_cross_entropy", shapes, **options)
    chunks = (500 + rows - 1) // rows
    # Of three products that of the weight's gradient is as fast; others take 24 rows longer a chunk, and 24 classes.
    units = 3 + 2 * (24 * chunks / 500 + 24 / 8192)
    assert schedule.forward_ms == pytest.approx(units * 2 * 500 * 768 * 8192 / 1e9, rel=1e-3)


def test_a_gpu_is_planned_for_with_its_own_workspace():
    shapes = {"input": (4096, 64), "linear_weight": (50257, 64), "linear_bias": (50257,)}
    options = {"dtype": torch.bfloat16, "multiprocessors": 132}
    gpu = fluxcore.explain("linear_cross_entropy", shapes, device="cuda", **options)
    assert {launch.work for launch in gpu.forward if launch.flop} == {"1 chunk of 4096 rows"}
    assert "sum, gradient of bias" in [launch.kernel for launch in gpu.forward]
    # Besides, the sums of the weight's gradient in float32.
    assert gpu.workspace_bytes >= 2 * 4096 * 50257 + 4 * 50257 * 64


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ({"input": (2, 3)}, {}, "must have `linear_weight` for `linear_cross_entropy`, got input\n\nWrite shapes="),
        ({"input": (2, 3), "linear_weight": (5, 4)}, {}, "column for each of the 3 hidden states"),
        (SHAPES, {"requires_grad": ("target",)}, "`requires_grad` must be among input, linear_weight, .* 'target'"),
        (SHAPES, {"tflop_per_s": 1.0}, "`bandwidth_gb_per_s` must be given with `tflop_per_s`"),
        (SHAPES, {"tflop_per_s": -1.0, "bandwidth_gb_per_s": 1.0}, "`tflop_per_s` must be > 0, got -1.0"),
        (SHAPES, {"options": LinearOptions(workspace_bytes=8)}, "`options.workspace_bytes` must be at least"),
    ],
)
def test_bad_input_is_named_with_the_way_out(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        fluxcore.explain("linear_cross_entropy", shapes, **options)
