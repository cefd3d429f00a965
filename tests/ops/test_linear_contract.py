"""How the linear ops behave as ops: registration, compile, autocast, passes over a graph, module features, errors."""

from itertools import product

import pytest
import torch
from support.devices import device_fixture
from support.synchronisation import RecordSynchronisation
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fluxcore
from fluxcore.ops import _linear_cross_entropy_parts as ce_parts
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes
from fluxcore.ops import _linear_softmax_stats_op as stats_passes
from fluxcore.ops._cross_entropy_backends import BACKENDS, Options
from fluxcore.ops._linear_rows import LiveRows, live_rows
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.ops.linear_cross_entropy import LinearOptions, linear_cross_entropy
from fluxcore.ops.linear_kl_div import linear_kl_div
from fluxcore.ops.linear_softmax_stats import linear_softmax_stats
from fluxcore.sharpness import Sharpness
from fluxcore.target_check import check_targets

device = device_fixture(BACKENDS)
F = torch.nn.functional
ops = torch.ops.fluxcore
PLAN = (0, 3, 0, None, 0, 0.0, None, None)
STATS = (0b1111111, 3, 0.9, 20.0)


def tensors(device, dtype=torch.float32):
    shapes = [(5, 8), (33, 8), (33,)]
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("reduction", "now"), [("none", False), ("mean", False), ("mean", True)])
def test_opcheck_of_cross_entropy(reduction, now, device):
    arguments = (*tensors(device), torch.tensor([0, 32, 1, 5, 7], device=device))
    ones = torch.ones(5, device=device)
    arguments += (torch.rand(33, device=device), ones, ones / 2, None)
    options = Options("softmax", reduction, 5, 0.1, 0.01, "top_k_mass", 0.5, 3, 255, 0.9, 20.0)
    call = (*arguments, *options, *PLAN, [now] * 3)
    torch.library.opcheck(ops.linear_cross_entropy_fwd, call)
    saved = ops.linear_cross_entropy_fwd(*call)[2:6]
    upstream = ones if reduction == "none" else ones[0]
    arguments = [value if value is None else value.detach() for value in arguments]
    torch.library.opcheck(
        ops.linear_cross_entropy_bwd, (upstream, *arguments, *saved, *options, *PLAN, [True, False, True])
    )


def test_opcheck_of_softmax_stats(device):
    arguments = (*tensors(device), torch.tensor([0, 32, 1, 5, 7], device=device))
    torch.library.opcheck(ops.linear_softmax_stats_fwd, (*arguments, *STATS, *PLAN))
    stats, *saved = ops.linear_softmax_stats_fwd(*arguments, *STATS, *PLAN)
    arguments = [value.detach() for value in arguments]
    call = (torch.randn_like(stats), *arguments, *saved, *STATS, *PLAN, [True, True, False])
    torch.library.opcheck(ops.linear_softmax_stats_bwd, call)


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiles_without_a_graph_break(reduction, device):
    penalty = Sharpness("neg_entropy", 0.1)

    def loss(hidden, weight, target):
        options = {"reduction": reduction, "penalty": penalty, "options": LinearOptions(rows=3)}
        value = linear_cross_entropy(hidden * 2, weight, target, **options)
        divergence = linear_kl_div(hidden, weight, hidden.detach() + 0.1, weight.detach(), reduction=reduction)
        return value.sum() + linear_softmax_stats(hidden, weight, outputs=("entropy",)).entropy.sum() + divergence.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for rows, V in [(4, 33), (7, 60)]:
        leaves = [torch.randn(*shape, 8, device=device).requires_grad_() for shape in [(2, rows), (V,)]]
        target = torch.randint(V, (2, rows), device=device)
        target[0, 1:3] = -100
        expected, ours = loss(*leaves, target), compiled(*leaves, target)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * expected, leaves))
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_autocast_multiplies_in_its_dtype_as_linear_does(reduction, dtype, device):
    hidden, weight, bias = tensors(device)
    hidden = hidden.detach().to(dtype).requires_grad_()
    target = torch.arange(5, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = F.linear(hidden, weight, bias)
        assert logits.dtype == torch.bfloat16
        expected = cross_entropy(logits, target, reduction=reduction)
        ours = linear_cross_entropy(hidden, weight, target, linear_bias=bias, reduction=reduction)
        stats = linear_softmax_stats(hidden, weight, target, linear_bias=bias, outputs=("logprob",))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(-stats.logprob if reduction == "none" else -stats.logprob.mean(), expected)
    leaves = (hidden, weight, bias)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(value, leaves, upstream) for value in (ours, expected)]
    for our, theirs, leaf in zip(*gradients, leaves, strict=True):
        assert our.dtype == leaf.dtype
        torch.testing.assert_close(our.float(), theirs.float(), rtol=0.02, atol=4e-3)


def test_autocast_leaves_float64_alone(device):
    hidden, weight, _ = tensors(device, torch.float64)
    target = torch.arange(5, device=device)
    expected = linear_cross_entropy(hidden, weight, target)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(linear_cross_entropy(hidden, weight, target), expected)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_second_derivative_is_refused(reduction, device):
    hidden, weight, _ = tensors(device)
    loss = linear_cross_entropy(hidden, weight, torch.arange(5, device=device), reduction=reduction).sum()
    entropy = linear_softmax_stats(hidden, weight, outputs=("entropy",)).entropy.sum()
    for value in (loss, entropy):
        (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="can be differentiated once"):
            gradient.square().sum().backward()


def test_a_graph_can_be_walked_again(device):
    hidden, weight, bias = leaves = tensors(device)
    loss = linear_cross_entropy(hidden, weight, torch.arange(5, device=device), linear_bias=bias)
    factors = (3.0, 0.0, 1.0)
    walks = [torch.autograd.grad(factor * loss, leaves, retain_graph=True) for factor in factors]
    for factor, walk in zip(factors, walks, strict=True):
        torch.testing.assert_close(walk, tuple(factor * value for value in walks[-1]))


def test_a_tied_weight_gets_both_gradients_and_they_add_up_over_calls(device):
    weight = torch.randn(33, 8, device=device, requires_grad=True)
    tokens = torch.randint(33, (2, 6), device=device)

    def losses(by_logits):
        for row in tokens:
            hidden = F.embedding(row[:-1], weight).tanh()
            if by_logits:
                yield cross_entropy(F.linear(hidden, weight), row[1:])
            else:
                yield linear_cross_entropy(hidden, weight, row[1:], options=LinearOptions(rows=2))

    for loss in losses(True):
        loss.backward()
    expected, weight.grad = weight.grad, None
    for loss in losses(False):
        loss.backward()
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_activation_checkpointing(reduction, reentrant, device):
    leaves = tensors(device)
    target = torch.arange(5, device=device)

    def loss(hidden, weight, bias):
        return linear_cross_entropy(hidden.tanh(), weight, target, linear_bias=bias, reduction=reduction).sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    checkpoint(loss, *leaves, use_reentrant=reentrant).backward()
    torch.testing.assert_close(tuple(leaf.grad for leaf in leaves), expected)


def test_a_frozen_part_gets_no_gradient(device):
    hidden, weight, bias = tensors(device)
    target = torch.arange(5, device=device)
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, target, linear_bias=bias), (hidden, bias))
    weight.requires_grad_(False)
    loss = linear_cross_entropy(hidden, weight, target, linear_bias=bias)
    loss.backward()
    assert weight.grad is None
    torch.testing.assert_close((hidden.grad, bias.grad), expected)


def test_a_gpu_is_not_waited_for(device, monkeypatch):
    # On a CPU rows are counted, which looks at values; unless it is said how many there are it takes the GPU's branch.
    def on_gpu(dead: Tensor, most: int) -> LiveRows:
        return live_rows(dead, most) if most else LiveRows(dead.shape[0], dead=dead)

    for module in (ce_passes, ce_parts, stats_passes):
        monkeypatch.setattr(module, "live_rows", on_gpu)
    implementations = {
        "fluxcore::linear_cross_entropy_fwd": ce_passes.forward,
        "fluxcore::linear_cross_entropy_bwd": ce_passes.backward,
        "fluxcore::linear_softmax_stats_fwd": stats_passes.forward,
        "fluxcore::linear_softmax_stats_bwd": stats_passes.backward,
    }
    hidden, weight, bias = tensors(device)
    target = torch.tensor([0, 32, -100, 5, 40], device=device)
    for reduction, classes, most in product(("none", "mean"), (None, 16), (None, 4)):
        options = LinearOptions(classes=classes, live_rows=most)
        with RecordSynchronisation(implementations) as record:
            loss = linear_cross_entropy(
                hidden, weight, target, linear_bias=bias, reduction=reduction, options=options
            ).sum()
            loss.backward()
            linear_softmax_stats(hidden, weight, outputs=("entropy",), options=options).entropy.sum().backward()
        assert record.waits == []
        assert "fluxcore::linear_cross_entropy_fwd" in record.called


def test_targets_can_be_checked(device):
    hidden, weight, _ = tensors(device)
    target = torch.tensor([0, 1, 2, 33, 4], device=device)
    with check_targets(), pytest.raises(ValueError, match=r"within \[0, 33\).* got 33 at row 3, and 0 more"):
        linear_cross_entropy(hidden, weight, target, options=LinearOptions(rows=2))
    assert linear_cross_entropy(hidden, weight, target).isnan()


HIDDEN, WEIGHT = torch.randn(2, 4), torch.randn(3, 4)
INTEGERS = torch.ones(3, 4, dtype=torch.int8)
HIDDEN_THAT_NEEDS_GRADIENT = torch.ones(2, 4, requires_grad=True)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`input` must be float32, .*, got torch.int64\n\nDid you pass", {"input": INTEGERS[:2].long()}),
        (TypeError, "`linear_weight` must be .* torch.int8\n\nA quantised", {"linear_weight": INTEGERS}),
        (TypeError, "`linear_weight` must have the dtype of .* got .*16\n\n", {"linear_weight": WEIGHT.half()}),
        (ValueError, "`input` must have a last dim of hidden states", {"input": torch.tensor(1.0)}),
        (ValueError, r"`linear_weight` must be \[V, D\] with .* got \(0, 4\)", {"linear_weight": torch.ones(0, 4)}),
        (ValueError, r"`linear_weight` must be \[V, D\] .* got \(3,\)", {"linear_weight": torch.ones(3)}),
        (ValueError, r"column for each of the 4 hidden states .* \(4, 3\)\n\n", {"linear_weight": torch.ones(4, 3)}),
        (ValueError, "`linear_weight` must be on .*meta\n\nIts values", {"linear_weight": WEIGHT.to("meta")}),
        (TypeError, "`linear_weight` must be dense, got torch.sparse_coo", {"linear_weight": WEIGHT.to_sparse()}),
        (ValueError, r"`linear_bias` must have one element a class, 3, got \(4,\)", {"linear_bias": torch.ones(4)}),
        (ValueError, r"`target` must have the shape of .*\(2,\), got \(3,\)", {"target": torch.ones(3).long()}),
        (TypeError, "`options` must be a LinearOptions, .* got int", {"options": 7}),
        (
            ValueError,
            "`options.workspace_bytes` must be at least 12 for one row of 3 classes in torch.float32, got 11",
            {"options": LinearOptions(workspace_bytes=11), "input": HIDDEN_THAT_NEEDS_GRADIENT},
        ),
        (
            ValueError,
            "`options.workspace_bytes` must be at least 60 for `rows` = 5 .*, got 59",
            {"options": LinearOptions(workspace_bytes=59, rows=5)},
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_the_way_out(error, message, arguments):
    arguments = {"input": HIDDEN, "linear_weight": WEIGHT, "target": torch.tensor([0, 2]), **arguments}
    with pytest.raises(error, match=message):
        linear_cross_entropy(**arguments)
    with pytest.raises(error, match=message):
        linear_softmax_stats(**arguments, outputs=("logprob",))


# PyTorch is about to drop the quantised tensors of its own.
@pytest.mark.filterwarnings("ignore:torch.quantize_per:UserWarning")
@pytest.mark.parametrize("kind", ["per tensor", "per channel", "integers", "float8"])
def test_a_quantised_head_is_refused_and_serves_dequantised(kind):
    scales, zeros, target = torch.rand(3) + 0.1, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 2])
    if kind == "per tensor":
        quantised = torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)
        weight = quantised.dequantize()
    elif kind == "per channel":
        quantised = torch.quantize_per_channel(WEIGHT, scales, zeros, 0, torch.qint8)
        weight = quantised.dequantize()
    elif kind == "integers":
        quantised = (WEIGHT / scales.unsqueeze(1)).round().to(torch.int8)
        weight = quantised * scales.unsqueeze(1)
    else:
        quantised = WEIGHT.to(torch.float8_e4m3fn)
        weight = quantised.float()
    message = (
        f"`linear_weight` must be float32, .* got {quantised.dtype}\n\nA quantised head has to be dequantised first: "
    )
    for call in (
        lambda head: linear_cross_entropy(HIDDEN, head, target),
        lambda head: linear_softmax_stats(HIDDEN, head, target, outputs=("logprob",)).logprob,
        lambda head: linear_kl_div(HIDDEN, head, HIDDEN, WEIGHT),
    ):
        with pytest.raises(TypeError, match=message):
            call(quantised)
        assert call(weight).isfinite().all()
    with pytest.raises(TypeError, match=f"`ref_{message[1:]}"):
        linear_kl_div(HIDDEN, WEIGHT, HIDDEN, quantised)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "`rows` must be >= 1, .* got 0", {"rows": 0}),
        (ValueError, "`workspace_bytes` must be >= 1, .* got -5", {"workspace_bytes": -5}),
        (TypeError, "`accumulate` must be a floating point dtype, .* got torch.int32", {"accumulate": torch.int32}),
    ],
)
def test_options_are_checked(error, message, arguments):
    with pytest.raises(error, match=message):
        LinearOptions(**arguments)


def test_the_backend_is_that_of_the_rows():
    with fluxcore.backend("reference"):
        expected = linear_cross_entropy(HIDDEN, WEIGHT, torch.tensor([0, 2]))
    torch.testing.assert_close(linear_cross_entropy(HIDDEN, WEIGHT, torch.tensor([0, 2])), expected)
