"""Statistics in the epilogue of the product, without logits: as accurate as from logits, in any shape; who gets it."""

from functools import partial

import pytest
import torch
from fluxcore.kernels.linear_stats import BLOCKS, plan_product
from support.devices import device_fixture
from support.numerics import assert_no_less_accurate, assert_relatively_accurate
from support.products import CountProducts

import fluxcore
from fluxcore import LinearOptions, Sharpness, linear_cross_entropy, linear_kl_div, linear_softmax_stats, reference
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes
from fluxcore.ops import _linear_fused as linear_fused
from fluxcore.ops import _linear_softmax_stats_op as stats_passes
from fluxcore.ops._linear_head import Plan
from fluxcore.ops._linear_row_parts import Statistics

device = device_fixture(("triton",))
F = torch.nn.functional
REAL = ("lse", "logprob", "entropy", "varentropy", "max_prob", "one_minus_max_prob")
FUSED = LinearOptions(fused=True)
STORED = LinearOptions(fused=False)
IMPLEMENTATIONS = {
    "fluxcore::linear_softmax_stats_fwd": stats_passes.forward,
    "fluxcore::linear_cross_entropy_fwd": ce_passes.forward,
}
# N, D, V: less than a block, with edges; ranges of classes with a block of rows past the first; all in whole blocks.
SHAPES = [(5, 9, 70), (131, 16, 260), (128, 64, 256)]
PLAIN = {}
CAPPED = {"temperature": 1.3, "softcap": 12.0}
WAYS = [(SHAPES[0], PLAIN), (SHAPES[0], {"temperature": 0.8}), (SHAPES[1], CAPPED), (SHAPES[2], PLAIN)]


def leaves(device, dtype, shape):
    N, D, V = shape
    return [torch.randn(sizes, device=device).to(dtype).requires_grad_() for sizes in [(N, D), (V, D), (V,)]]


def stats_of(tensors, target, function=linear_softmax_stats, **rest):
    hidden, weight, bias = tensors
    stats = function(hidden, weight, target, linear_bias=bias, outputs=(*REAL, "argmax"), **rest)
    return torch.stack([getattr(stats, name) for name in REAL]), stats.argmax


def by_reference(hidden, weight, target, *, linear_bias, **rest):
    return reference.softmax_stats(F.linear(hidden, weight, linear_bias), target, **rest)


def gradients(values, tensors):
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(values)
    return torch.autograd.grad(values, tensors, upstream)


def test_shapes_take_every_way():
    plans = [plan_product(N, V, size, 0, 8) for N, _, V in SHAPES for size in BLOCKS]
    assert {plan.splits > 1 for plan in plans} == {False, True}
    assert {plan.grid[0] > 1 for plan in plans} == {False, True}
    assert plan_product(8192, 128256, 2, 0, 528).grid == (64, 16)
    assert plan_product(1, 128256, 2, 0, 528).grid == (1, 256)


@pytest.mark.parametrize(
    ("dtype", "shape", "transform"),
    [
        *((torch.float32, *way) for way in WAYS[1:]),
        *((torch.bfloat16, *way) for way in WAYS[2:]),
        (torch.float16, *WAYS[0]),
    ],
    ids=str,
)
def test_values_and_gradients(dtype, shape, transform, device):
    tensors, target = leaves(device, dtype, shape), torch.randint(shape[2], (shape[0],), device=device)
    with CountProducts(IMPLEMENTATIONS) as count:
        ours, argmax = stats_of(tensors, target, options=FUSED, **transform)
    assert count.flop == 0
    than, _ = stats_of(tensors, target, by_reference, **transform)
    wide = [value.detach().double().requires_grad_() for value in tensors]
    exact, expected_argmax = stats_of(wide, target, by_reference, **transform)
    assert_no_less_accurate(ours.detach(), than=than.detach(), exact=exact.detach())
    if dtype == torch.float32:  # half precision has ties
        assert torch.equal(argmax, expected_argmax)
    groups = (gradients(value, own) for value, own in ((ours, tensors), (than, tensors), (exact, wide)))
    for our, naive, true, leaf in zip(*groups, tensors, strict=True):
        assert our.dtype == leaf.dtype
        assert_no_less_accurate(our, than=naive, exact=true)


@pytest.mark.parametrize("outputs", [("logprob",), ("entropy", "max_prob"), ("argmax",)], ids=str)
def test_each_statistic_alone(outputs, device):
    hidden, weight, _ = leaves(device, torch.float32, (70, 16, 200))
    target = torch.randint(200, (70,), device=device) if "logprob" in outputs else None
    ours, theirs = (
        linear_softmax_stats(hidden, weight, target, outputs=outputs, options=options) for options in (FUSED, STORED)
    )
    torch.testing.assert_close(ours, theirs)
    if outputs != ("argmax",):
        pairs = [getattr(stats, outputs[0]) for stats in (ours, theirs)]
        torch.testing.assert_close(*(torch.autograd.grad(value.sum(), (hidden, weight)) for value in pairs))


def test_exact_in_the_tails(device):
    margin = 30.0
    weight = torch.zeros(517, 16, device=device)
    weight[333, 0] = margin
    hidden = torch.zeros(3, 16, device=device)
    hidden[:, 0] = 1
    hidden[1, 0] = 0.5
    target = torch.tensor([333, 333, 7], device=device)
    names = ("entropy", "one_minus_max_prob", "logprob", "varentropy")
    ours = linear_softmax_stats(hidden, weight, target, outputs=names, options=FUSED)
    exact = reference.softmax_stats(hidden.double() @ weight.double().T, target, outputs=names)
    for name in names:
        assert_relatively_accurate(getattr(ours, name), exact=getattr(exact, name), margin=margin)
    assert ours.entropy[0] > 0


def test_ties_infinities_and_targets_that_are_no_class(device):
    """Logits are the bias: of hidden states 0 in all rows but one."""
    V = 300
    bias = torch.randn(V, device=device)
    bias[[20, 70, 250]] = 5.0
    bias[33] = -torch.inf
    hidden, weight = torch.zeros(6, 8, device=device), torch.randn(V, 8, device=device)
    hidden[4], hidden[5] = torch.nan, torch.inf
    target = torch.tensor([20, 250, -100, V, 3, 4], device=device)
    for of in (bias, torch.full_like(bias, -torch.inf), bias.index_fill(0, torch.tensor(99), torch.inf)):
        arguments = (hidden, weight.abs(), target)
        options = {"linear_bias": of, "outputs": (*REAL, "argmax")}
        ours, theirs = (
            linear_softmax_stats(*arguments, **options, options=choice) for choice in (FUSED, LinearOptions(rows=6))
        )
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert ours.argmax[4] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides(dtype, device):
    N, D, V = 20, 24, 150
    hidden = torch.randn(N, 3 * D, device=device).to(dtype)[:, D + 1 : 2 * D + 1]
    target = torch.randint(V, (2 * N,), device=device)[::2]
    own, parts = torch.randn(V, D, device=device), torch.randn(V, D + 5, device=device)
    weights = [own, own.t().contiguous().t(), parts[:, 2 : D + 2]]
    for weight in weights:
        stats = linear_softmax_stats(
            hidden, weight.to(dtype, memory_format=torch.preserve_format), target, outputs=REAL, options=FUSED
        )
        expected = linear_softmax_stats(
            hidden.contiguous(), weight.to(dtype).contiguous(), target, outputs=REAL, options=STORED
        )
        torch.testing.assert_close(stats, expected, rtol=1e-5, atol=1e-5)
    for rows in (hidden[:0], hidden[:1]):
        stats = linear_softmax_stats(rows, own.to(dtype), outputs=("entropy",), options=FUSED)
        assert stats.entropy.shape == rows.shape[:1]


def test_results_are_the_same_each_time(device):
    hidden, weight, bias = leaves(device, torch.float32, (70, 16, 200))
    runs = [
        linear_softmax_stats(hidden, weight, linear_bias=bias, outputs=("entropy", "lse"), options=FUSED)
        for _ in range(2)
    ]
    assert torch.equal(runs[0].entropy, runs[1].entropy)
    assert torch.equal(runs[0].lse, runs[1].lse)


PENALISED = {
    "penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "return_stats": ("varentropy", "argmax"),
}  # fmt: skip


@pytest.mark.parametrize(("reduction", "rest"), [("none", {}), ("mean", PENALISED)], ids=["plain", "penalty"])
def test_cross_entropy(reduction, rest, device):
    N, V = 70, 200
    tensors, target = leaves(device, torch.float32, (N, 16, V)), torch.randint(V, (N,), device=device)
    target[3] = -100
    with torch.no_grad():
        tensors[0][3] = torch.nan  # of no effect where the target is ignored
    weights = {"weight": torch.rand(V, device=device), "token_weight": torch.rand(N, device=device)}

    def call(options):
        result = linear_cross_entropy(
            *tensors[:2], target, linear_bias=tensors[2], reduction=reduction, options=options, **weights, **rest
        )
        loss, stats = result if isinstance(result, tuple) else (result, None)
        return loss, gradients(loss, tensors), stats and (stats.varentropy, stats.argmax)

    with CountProducts(IMPLEMENTATIONS) as count:
        ours = call(FUSED)
    assert count.flop == 0
    torch.testing.assert_close(ours, call(STORED), equal_nan=True)
    with torch.no_grad(), CountProducts(IMPLEMENTATIONS) as stored:
        linear_cross_entropy(*tensors[:2], target, options=STORED)
    assert stored.flop == 2 * (N - 1) * 16 * V  # on a CPU, where rows that do not count are left out


def test_rows_that_do_not_count_are_not_made(device):
    N, V = 140, 70
    hidden, weight, bias = leaves(device, torch.float32, (N, 16, V))
    target = torch.randint(V, (N,), device=device)
    dead = torch.rand(N, device=device) < 0.6
    statistics = Statistics(0b111, 1.0, 0.0)
    plan = Plan(0, 0, 0, True, 0, 0.0, None, None)
    some, every = (linear_fused.row_parts(hidden, weight, bias, target, statistics, plan, d) for d in (dead, None))
    for ours, theirs in zip(some, every, strict=True):
        torch.testing.assert_close(ours[~dead], theirs[~dead], rtol=1e-5, atol=1e-5)
    assert some.s[dead].isnan().all()  # uninitialised memory is filled with NaN in tests
    loss = partial(linear_cross_entropy, hidden, weight, linear_bias=bias, options=FUSED, reduction="none")
    ours = loss(target.masked_fill(dead, -100))
    torch.testing.assert_close(ours, loss(target).masked_fill(dead, 0))
    assert ours[dead].eq(0).all()
    assert loss(torch.full_like(target, -100)).eq(0).all()


def test_autocast(device):
    hidden, weight, bias = leaves(device, torch.float32, (20, 16, 150))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ours, stored = (
            linear_softmax_stats(hidden, weight, linear_bias=bias, outputs=("entropy",), options=options).entropy
            for options in (FUSED, STORED)
        )
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, stored, rtol=1e-2, atol=1e-2)
    exact = reference.softmax_stats(F.linear(hidden, weight, bias), outputs=("entropy",)).entropy
    assert not torch.equal(ours, exact)  # the product was in half precision


def test_opcheck(device):
    arguments = (*leaves(device, torch.float32, (5, 8, 70)), torch.tensor([0, 32, 1, 5, 7], device=device))
    plan = (0, 0, 0, True, 0, 0.0, None, None)
    torch.library.opcheck(torch.ops.fluxcore.linear_softmax_stats_fwd, (*arguments, 0b111, 0, 0.9, 20.0, *plan))


def explained(op, D, dtype=torch.bfloat16, **rest):
    shapes = {"input": (8192, D), "linear_weight": (50257, D)}
    return fluxcore.explain(op, shapes, dtype=dtype, device="cuda", multiprocessors=132, **rest)


def test_the_cost_model_takes_it_for_small_hidden_sizes():
    explain = partial(explained, "linear_softmax_stats", outputs=("entropy",))
    regimes = {D: explain(D, requires_grad=False).regime for D in (256, 768, 1024, 2048, 4096)}
    assert regimes == {256: "fused", 768: "fused", 1024: "fused", 2048: "loop", 4096: "loop"}
    assert explain(768, torch.float32).regime == "loop"  # without tensor cores
    assert explain(768, torch.float64).regime == "loop"
    assert explain(768, options=LinearOptions(rows=1024)).regime == "loop"
    assert explain(4096, options=FUSED).regime == "fused"
    assert explained("linear_softmax_stats", 768, outputs=("top_k_mass",), top_k=4).regime == "loop"
    evaluated = explained("linear_cross_entropy", 768, requires_grad=False)
    assert evaluated.regime == "fused"
    assert explained("linear_cross_entropy", 768).regime == "loop"  # makes its gradients from the same logits
    assert explained("linear_cross_entropy", 768, reduction="none").regime == "fused"
    assert explained("linear_cross_entropy", 768, reduction="none", label_smoothing=0.1).regime == "loop"


def test_explain_shows_what_it_moves():
    schedule = explained(
        "linear_softmax_stats", 768, outputs=("entropy",), requires_grad=False, bandwidth_gb_per_s=4300
    )
    product, merge = schedule.forward
    assert (product.kernel, merge.kernel) == ("linear_stats_fwd_kernel", "linear_stats_merge_kernel")
    assert product.bytes_read == (8192 + 50257) * 768 * 2
    assert product.bytes_written == merge.bytes_read == schedule.workspace_bytes == 24 * 8192 * 16
    assert product.flop == 2 * 8192 * 768 * 50257
    assert "grid 64 x 16, 128 rows x 128 classes at a time" in str(schedule)
    stored = explained(
        "linear_softmax_stats", 768, outputs=("entropy",), requires_grad=False, bandwidth_gb_per_s=4300, options=STORED
    )
    assert schedule.forward_ms < stored.forward_ms
    assert product.product_rate < 1


HIDDEN, WEIGHT, TARGET = torch.randn(2, 4), torch.randn(7, 4), torch.tensor([0, 2])


@pytest.mark.parametrize(
    "call",
    [
        lambda options: linear_softmax_stats(HIDDEN, WEIGHT, outputs=("top_k_mass",), top_k=2, options=options),
        lambda options: linear_cross_entropy(HIDDEN, WEIGHT, TARGET, label_smoothing=0.1, options=options),
        lambda options: linear_cross_entropy(HIDDEN, WEIGHT, torch.rand(2, 7), options=options),
        lambda options: linear_cross_entropy(HIDDEN, WEIGHT, TARGET, link="stablemax", options=options),
        lambda options: linear_kl_div(HIDDEN, WEIGHT, HIDDEN, WEIGHT, options=options),
    ],
    ids=["top k", "smoothing", "probabilities", "stablemax", "divergence"],
)
def test_what_needs_rows_whole_is_refused(call, device):
    with pytest.raises(ValueError, match=r"`options.fused` must be None or False, got True: label smoothing, .* whole"):
        call(FUSED)


def test_where_there_is_no_kernel_it_is_refused(device):
    with pytest.raises(ValueError, match=r"`options.fused` must be None or False in float64, got True"):
        linear_softmax_stats(HIDDEN.double(), WEIGHT.double(), outputs=("entropy",), options=FUSED)
    for backend in ("cpp", "reference"):
        with (
            fluxcore.backend(backend),
            pytest.raises(ValueError, match=f"must be None or False on the backend `{backend}`, got True"),
        ):
            linear_softmax_stats(HIDDEN, WEIGHT, outputs=("entropy",), options=FUSED)
