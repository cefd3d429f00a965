"""The linear ops in chunks of classes: as with all classes in one to rounding, exact in the tails; who gets them."""

import pytest
import torch
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate, assert_relatively_accurate
from support.products import CountProducts

from fluxcore import LinearOptions, Sharpness, linear_cross_entropy, linear_kl_div, linear_softmax_stats, reference
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes
from fluxcore.ops import _linear_softmax_stats_op as stats_passes
from fluxcore.ops._cross_entropy_backends import Options
from fluxcore.ops._linear_schedule import Passes, Request, Tile, extra_columns, tile_of

device = device_fixture(("cpp",))
on_triton = device_fixture(("triton",))
F = torch.nn.functional
N, D, V = 9, 6, 70
REAL = ("lse", "logprob", "entropy", "varentropy", "max_prob", "one_minus_max_prob")
WHOLE = LinearOptions(rows=4)


def leaves(device, dtype=torch.float32):
    return [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in [(N, D), (V, D), (V,)]]


def gradients(values, tensors):
    upstream = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(values)
    return torch.autograd.grad(values, tensors, upstream, retain_graph=True)


def stats_of(tensors, target, options, function=linear_softmax_stats, **rest):
    hidden, weight, bias = tensors
    options = {"outputs": (*REAL, "argmax"), "temperature": 0.8, "softcap": 12.0, "options": options} | rest
    stats = function(hidden, weight, target, linear_bias=bias, **options)
    return torch.stack([getattr(stats, name) for name in REAL]), stats.argmax


def by_reference(hidden, weight, target, *, linear_bias, options, **rest):
    return reference.softmax_stats(F.linear(hidden, weight, linear_bias), target, **rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_statistics_are_as_accurate_as_those_of_whole_rows(dtype, device):
    tensors, target = leaves(device, dtype), torch.randint(V, (N,), device=device)
    ours, argmax = stats_of(tensors, target, LinearOptions(rows=4, classes=16))
    than, _ = stats_of(tensors, target, None, by_reference)
    wide = [value.detach().double().requires_grad_() for value in tensors]
    exact, expected_argmax = stats_of(wide, target, None, by_reference)
    assert_no_less_accurate(ours.detach(), than=than.detach(), exact=exact.detach())
    if dtype != torch.bfloat16:  # whose logits have ties
        assert torch.equal(argmax, expected_argmax)
    groups = (gradients(value, own) for value, own in ((ours, tensors), (than, tensors), (exact, wide)))
    for our, naive, true, leaf in zip(*groups, tensors, strict=True):
        assert our.dtype == leaf.dtype
        assert_no_less_accurate(our, than=naive, exact=true)


@pytest.mark.parametrize(("rows", "classes"), [(4, 3), (2, 64), (9, 69), (20, 70)])
def test_chunks_change_rounding_alone(rows, classes, device):
    tensors, target = leaves(device), torch.randint(V, (N,), device=device)
    target[2] = -7  # not a class: NaN in both
    ours, theirs = (
        stats_of(tensors, target, options) for options in (LinearOptions(rows=rows, classes=classes), WHOLE)
    )
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    torch.testing.assert_close(gradients(ours[0], tensors), gradients(theirs[0], tensors), equal_nan=True)
    loss, expected = (
        linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2], reduction="none", options=options)
        for options in (LinearOptions(rows=rows, classes=classes), WHOLE)
    )
    torch.testing.assert_close(loss, expected, equal_nan=True)


LOSSES = [
    {},
    {"penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "softcap": 9.0, "temperature": 0.7},
    {"penalty": Sharpness("non_max_sum", 0.3)},
    {"penalty": Sharpness("neg_max_prob", 0.3), "lse_square_scale": 0.1},
]


@pytest.mark.parametrize(
    ("reduction", "stats"), [("none", None), ("mean", None), ("token_mean", ("varentropy", "argmax", "lse"))]
)
@pytest.mark.parametrize("options", LOSSES, ids=["plain", "z-loss, softcap", "mass", "largest"])
def test_cross_entropy_with_every_option_that_can_be_merged(options, reduction, stats, device):
    tensors, target = leaves(device), torch.randint(V, (N,), device=device)
    target[3] = -100
    weights = {"weight": torch.rand(V, device=device), "token_weight": torch.rand(N, device=device)}
    weights["weight"][target[1]] = 0
    weights["token_weight"][7] = 0
    if "penalty" in options:
        weights["penalty_mask"] = torch.rand(N, device=device)
    with torch.no_grad():
        tensors[0][3] = torch.nan  # of no effect where the target is ignored

    def call(linear_options):
        result = linear_cross_entropy(
            *tensors[:2], target, linear_bias=tensors[2], reduction=reduction, return_stats=stats,
            options=linear_options, **options, **weights,
        )  # fmt: skip
        loss, own = result if stats else (result, None)
        return loss, gradients(loss, tensors), own and [getattr(own, name) for name in stats]

    ours, theirs = call(LinearOptions(rows=4, classes=16)), call(WHOLE)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert ours[1][0][3].eq(0).all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_no_row_that_counts(reduction):
    hidden, weight, _ = leaves("cpu")
    target = torch.full((N,), -100)
    ours, theirs = (
        linear_cross_entropy(hidden, weight, target, reduction=reduction, options=options)
        for options in (LinearOptions(classes=16), WHOLE)
    )
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    torch.testing.assert_close(gradients(ours, (hidden, weight)), gradients(theirs, (hidden, weight)))


@pytest.mark.parametrize("op", ["statistics", "loss"])
def test_finite_differences_agree(op, device):
    tensors = [value.detach()[:5].double().requires_grad_() for value in leaves(device)]
    target = torch.tensor([0, 4, -100, 2, 1], device=device)
    options = LinearOptions(rows=2, classes=2)

    def values(hidden, weight, bias):
        if op == "loss":
            return linear_cross_entropy(hidden, weight, target, linear_bias=bias, options=options, **LOSSES[1])
        names = REAL[:1] + REAL[2:]
        stats = linear_softmax_stats(hidden, weight, linear_bias=bias, outputs=names, options=options)
        return tuple(getattr(stats, name) for name in names)

    assert_finite_differences_agree(values, tensors)


def test_the_kernels_of_a_gpu_take_the_state_of_a_whole_row(on_triton):
    # One test of them all: without a GPU each launch takes its time.
    tensors, target = leaves(on_triton), torch.randint(V, (N,), device=on_triton)
    few = LinearOptions(classes=32)
    ours, theirs = (stats_of(tensors, target, options) for options in (few, None))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours[0], tensors), gradients(theirs[0], tensors))
    target[3] = -100
    losses = [linear_cross_entropy(*tensors[:2], target, options=own, **LOSSES[1]) for own in (few, None)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(gradients(loss, tensors[:2]) for loss in losses))


def one_row(x, target, classes, **options):
    """Statistics of the row x, and the gradients of each by its logits, from a head of one hidden state that is 1."""
    weight = x.unsqueeze(1).requires_grad_()
    stats = linear_softmax_stats(
        x.new_ones(1, 1), weight, target, outputs=(*REAL, "argmax"), options=LinearOptions(classes=classes), **options
    )
    values = [getattr(stats, name) for name in REAL]
    return torch.cat(values).detach(), stats.argmax, torch.cat([gradients(value, weight)[0].T for value in values])


@pytest.mark.parametrize("at", [5, 16, 39])
def test_a_sure_row_is_exact_whichever_chunk_has_its_largest_logit(at, device):
    margin = 30.0
    x = torch.rand(40, device=device)
    x[at] += margin
    for target in (at, 17):
        y = torch.tensor([target], device=device)
        ours, argmax, ours_by_logit = one_row(x.clone(), y, 16)
        wide = x.double().requires_grad_()
        stats = reference.softmax_stats(wide.unsqueeze(0), y, outputs=REAL)
        values = [getattr(stats, name) for name in REAL]
        assert argmax == at
        assert_relatively_accurate(ours, exact=torch.cat(values).detach(), margin=margin)
        row = reference.row_state(wide.detach().unsqueeze(0))
        for i, (name, value) in enumerate(zip(REAL, values, strict=True)):
            upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value)
            exact = reference.softmax_stats_grad(
                reference.SoftmaxStats(**{name: upstream}), wide.detach().unsqueeze(0), row, y
            )
            assert_relatively_accurate(ours_by_logit[i], exact=exact[0], margin=margin)


INF = torch.inf


@pytest.mark.parametrize(
    "row",
    [
        [-INF, -INF, -INF, -INF, 1.0, 2.0, -INF, -INF, 0.5],
        [3.0, 1.0, 2.0, 3.0, 3.0, -INF, 3.0, 3.0, 1.0],
        [-INF] * 9,
        [0.0, 1.0, 2.0, INF, 0.0, 1.0, INF, 0.0, 0.0],
        [0.0, 1.0, INF, 0.0, torch.nan, 1.0, torch.nan, 0.0, 0.0],
        [100.0, -1e4, 1e4, 1e15, -1e15, 0.0, 1.0, 2.0, 3.0],
    ],
    ids=["part is -inf", "ties", "all -inf", "+inf", "NaN", "far apart"],
)
@pytest.mark.parametrize("classes", [1, 4])
def test_rows_that_are_not_finite_or_have_ties(row, classes, device):
    x, target = torch.tensor(row, device=device), torch.tensor([4], device=device)
    ours, theirs = (one_row(x.clone(), target, own) for own in (classes, None))
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_a_pass_takes_the_state_of_the_other_schedule():
    hidden, weight, bias = (value.detach() for value in leaves("cpu"))
    target = torch.randint(V, (N,))
    plans = [(0, 4, 16, None, 0, 0.0, None, None), (0, 4, 0, None, 0, 0.0, None, None)]
    options = Options("softmax", "none", -100, 0.0, 0.1, "neg_entropy", 0.3, 0, 0, 0.9, 0.0)
    upstream = torch.randn(N)
    found = []
    for forward in plans:
        arguments = (hidden, weight, bias, target, None, None, None, None)
        _, _, *saved = ce_passes.forward(*arguments, *options, *forward, [False] * 3)[:6]
        found += [ce_passes.backward(upstream, *arguments, *saved, *options, *plan, [True] * 3) for plan in plans]
        _, *saved = stats_passes.forward(hidden, weight, bias, target, 15, 0, 0.9, 0.0, *forward)
        arguments = (torch.outer(torch.arange(4.0), upstream), hidden, weight, bias, target, *saved, 15, 0, 0.9, 0.0)
        found += [stats_passes.backward(*arguments, *plan, [True] * 3) for plan in plans]
    for i in (0, 2):
        for other in (found[i + 1], found[i + 4], found[i + 5]):
            torch.testing.assert_close(other, found[i])


def test_opcheck():
    plan = (0, 3, 32, None, 0, 0.0, None, None)
    hidden, weight, bias = leaves("cpu")
    target = torch.randint(V, (N,))
    options = Options("softmax", "mean", 5, 0.0, 0.01, "non_max_sum", 0.5, 0, 1, 0.9, 20.0)
    arguments = (hidden, weight, bias, target, None, torch.ones(N), None, None)
    torch.library.opcheck(
        torch.ops.fluxcore.linear_cross_entropy_fwd, (*arguments, *options, *plan, [True, True, False])
    )
    torch.library.opcheck(
        torch.ops.fluxcore.linear_softmax_stats_fwd, (hidden, weight, bias, target, 15, 0, 0.9, 0.0, *plan)
    )


def test_logits_are_made_twice_where_gradients_are_wanted():
    tensors, target = leaves("cpu"), torch.randint(V, (N,))
    implementations = {"fluxcore::linear_cross_entropy_fwd": ce_passes.forward}
    for options, products in ((LinearOptions(classes=16), 4), (WHOLE, 3)):
        with CountProducts(implementations) as count:
            linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2], options=options)
        assert count.flop == products * 2 * N * D * V


def test_autocast_and_half_precision_sum_over_chunks_in_float32():
    # 256 chunks of one class, whose parts of the gradient nearly cancel: in bfloat16 the sum would be noise.
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.linspace(-1, 1, 256).bfloat16().unsqueeze(1).requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.tensor([255]), options=LinearOptions(classes=1))
    (ours,) = torch.autograd.grad(loss, hidden)
    p = weight.detach().double().squeeze(1).softmax(0)
    exact = (p * weight.detach().double().squeeze(1)).sum() - 1
    assert abs(ours.double().item() - exact) < 0.01 * abs(exact)
    full, head = torch.randn(4, 8, requires_grad=True), torch.randn(V, 8, requires_grad=True)
    target = torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, expected = (linear_cross_entropy(full, head, target, options=o) for o in (LinearOptions(classes=9), None))
    torch.testing.assert_close(loss, expected)
    for our, theirs in zip(gradients(loss, (full, head)), gradients(expected, (full, head)), strict=True):
        assert our.dtype == torch.float32
        torch.testing.assert_close(our, theirs, rtol=0.02, atol=4e-3)


PASSES = [
    Passes(False, False, mergeable=True),
    Passes(True, True, True, mergeable=True),
    Passes(True, False, True, mergeable=True),
    Passes(True, True, True, mergeable=True, at_once=True),
]


@pytest.mark.parametrize("passes", PASSES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_chunks_fit_the_workspace_that_is_given(device_type, dtype, passes):
    for rows, classes in [(1, 50257), (7, 300), (4096, 50257), (100000, 128256)]:
        for workspace in (1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 30):
            tile = tile_of(rows, classes, dtype, device_type, passes, Request(workspace, 0, 0), torch.float32)
            extra = 0 if tile.classes == classes else extra_columns(dtype, passes)
            assert 1 <= tile.rows <= rows
            assert 1 <= tile.classes <= classes
            assert tile.rows * (tile.classes + extra) * dtype.itemsize <= workspace


def test_the_cost_model_takes_fewer_classes_where_rows_are_short_of_room():
    def tile(N, V, passes, workspace=0, rows=0, classes=0, device_type="cpu"):
        return tile_of(N, V, torch.float32, device_type, passes, Request(workspace, rows, classes), torch.float32)

    forward, backward, _, at_once = PASSES
    assert tile(4096, 50304, forward).classes == 50304
    assert tile(4096, 50304, backward).classes == 50304
    assert tile(4096, 50257, forward).classes == 50257  # a CPU's product would be slower, but for their padding
    assert tile(4096, 50257, forward, device_type="cuda").classes == 50257
    small = 50272 * 4 * 8  # of 8 rows, padded: each reads all of the weight
    assert tile(4096, 50257, backward, small).classes < 50257
    assert tile(4096, 50257, at_once, small).classes < 50257
    assert tile(8, 50257, backward, small) == Tile(8, 50257)  # there are no more rows
    # To make the logits again costs a third more: of no use where chunks have 160 rows.
    assert tile(4096, 50304, at_once, 20 * small).classes == 50304
    assert tile(4096, 50304, backward, 20 * small).classes < 50304
    assert tile(4096, 50257, backward._replace(mergeable=False), small) == Tile(8, 50257)
    assert tile(4096, 50257, backward, small, rows=3) == Tile(3, 50257)
    assert tile(4096, 50257, backward, small, classes=1000).rows == small // 4 // (1000 + 4)
    assert tile(4096, 50257, backward, small, rows=3, classes=1000) == Tile(3, 1000)


def test_a_workspace_smaller_than_one_row_serves_what_can_be_merged():
    hidden, weight, _ = leaves("cpu")
    target = torch.randint(V, (N,))
    options = LinearOptions(workspace_bytes=V * 4 - 1)
    ours, expected = (linear_cross_entropy(hidden, weight, target, options=own) for own in (options, None))
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, (hidden, weight)), gradients(expected, (hidden, weight)))
    with pytest.raises(ValueError, match=f"must be at least {64 * 4 + 16} for one row of 64 classes .*, got 100"):
        linear_cross_entropy(hidden, weight, target, options=LinearOptions(workspace_bytes=100))
    with pytest.raises(ValueError, match=f"at least {V * 4} for one row of {V} classes"):
        linear_cross_entropy(hidden, weight, target, label_smoothing=0.1, options=options)
    with pytest.raises(ValueError, match="at least 80 for `rows` = 2 of 6 classes"):
        linear_cross_entropy(hidden, weight, target, options=LinearOptions(rows=2, classes=6, workspace_bytes=79))


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"link": "stablemax"},
        {"penalty": Sharpness("top_k_mass", 0.1, k=2)},
        {"target": torch.ones(N, V) / V},
    ],
    ids=["smoothing", "stablemax", "top k", "probabilities"],
)
def test_what_needs_a_row_whole_says_so(options):
    hidden, weight, _ = leaves("cpu")
    options = {"target": torch.zeros(N, dtype=torch.int64), "options": LinearOptions(classes=16)} | options
    with pytest.raises(ValueError, match=r"`options.classes` must be None, or all 70, got 16: .* need a row whole"):
        linear_cross_entropy(hidden, weight, **options)
    linear_cross_entropy(hidden, weight, **options | {"options": LinearOptions(classes=70)})


def test_the_other_ops_that_need_a_row_whole_say_so():
    hidden, weight, _ = (value.detach() for value in leaves("cpu"))
    few = LinearOptions(classes=16)
    with pytest.raises(ValueError, match=r"must be None, or all 70, got 16: .*top-k mass"):
        linear_softmax_stats(hidden, weight, outputs=("top_k_mass",), top_k=2, options=few)
    with pytest.raises(ValueError, match=r"must be None, or all 70, got 16: .*divergences"):
        linear_kl_div(hidden, weight, hidden, weight, options=few)
    with pytest.raises(ValueError, match=r"`classes` must be >= 1, .* got 0"):
        LinearOptions(classes=0)
