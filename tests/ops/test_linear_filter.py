"""Gradient filtering: what is left out stays below the bound that is reported, and nothing is left out unasked."""

import pytest
import torch
from support.devices import device_fixture
from support.products import CountProducts

import fluxcore
from fluxcore import GradientFilter, LinearOptions, Sharpness, linear_cross_entropy, linear_kl_div, linear_softmax_stats
from fluxcore.ops import _linear_cross_entropy_passes as ce_passes

device = device_fixture(("cpp", "reference"))
N, D, V = 40, 32, 300


def sure_rows(margin=30.0, dtype=torch.float64):
    """Hidden states, weight, bias and targets of rows that are almost sure of one class of few, as text is."""
    weight = torch.randn(V, D, dtype=dtype)
    weight /= weight.norm(dim=1, keepdim=True)
    target = torch.randint(20, (N,))
    hidden = margin * weight[target] + 0.3 * torch.randn(N, D, dtype=dtype)
    return [value.requires_grad_() for value in (hidden, weight, 0.1 * torch.randn(V, dtype=dtype))], target


def gradients(tensors, target, gradient_filter=None, *, upstream=1.0, rows=None, classes=None, loss_options=None):
    options = LinearOptions(rows=rows, classes=classes, gradient_filter=gradient_filter)
    hidden, weight, bias = leaves = [value.detach().requires_grad_(value.requires_grad) for value in tensors]
    loss = linear_cross_entropy(hidden, weight, target, linear_bias=bias, options=options, **loss_options or {})
    (upstream * loss).sum().backward()
    return [leaf.grad for leaf in leaves]


LOSSES = [
    {},
    {"reduction": "none"},
    {"reduction": "sum", "penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "softcap": 30.0},
    {"label_smoothing": 0.1},
]


@pytest.mark.parametrize("classes", [None, 64])
@pytest.mark.parametrize("loss_options", LOSSES, ids=["mean", "none", "penalty", "smoothing"])
def test_errors_are_below_bounds_that_say_something(loss_options, classes, device):
    if classes and "label_smoothing" in loss_options:
        pytest.skip("needs a row whole")
    tensors, target = sure_rows()
    target[3] = -100
    upstream = -1.5
    options = {"upstream": upstream, "rows": 12, "classes": classes, "loss_options": loss_options}
    exact = gradients(tensors, target, **options)
    largest = exact[2].abs().max().item()
    own = GradientFilter(largest * (1e-3 if "label_smoothing" in loss_options else 1e-4))
    ours = gradients(tensors, target, own, **options)
    by_input, by_weight, left_out = own.bound
    assert 0.3 < left_out < 1
    for our, true, bound in zip(ours, exact, (by_input, by_weight), strict=False):
        error = (our - true).norm()
        assert 0 < error <= bound
        assert bound < (1 if "label_smoothing" in loss_options else 0.1) * true.norm()
    torch.testing.assert_close(ours[2], exact[2])


def test_the_bounds_are_met_by_gradients_of_rank_one():
    # One row, one class left out, of which nothing is known but what the bound is made of.
    hidden = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 1.0], [0.5, 0.9], [-0.6, -0.8]], dtype=torch.float64, requires_grad=True)
    p = (hidden @ weight.t()).detach().softmax(-1)[0]
    own = GradientFilter(2 * p[2].item())
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0]), options=LinearOptions(gradient_filter=own))
    loss.backward()
    torch.testing.assert_close(own.bound.input, p[2] * 1.0)
    torch.testing.assert_close(own.bound.weight, p[2] * 5.0)
    assert own.bound.left_out == pytest.approx(1 / 3)
    assert weight.grad[2].eq(0).all()
    torch.testing.assert_close(weight.grad[1], 5 * p[1] * torch.tensor([0.6, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 1e-37])
def test_a_filter_that_leaves_nothing_out_changes_no_bit(threshold, dtype, device):
    tensors, target = sure_rows(2.0, dtype)
    for classes in (None, 64):
        options = {"rows": 12, "classes": classes}
        own = GradientFilter(threshold)
        ours, exact = gradients(tensors, target, own, **options), gradients(tensors, target, **options)
        assert all(map(torch.equal, ours, exact))
        assert own.bound == (0, 0, 0)


def test_a_gradient_that_is_not_small_is_kept_whatever_makes_it():
    # The softmax is sure, so that the loss' own gradients are small; those of the penalty are not.
    tensors, target = sure_rows(60.0)
    counts = []
    for penalty in (None, Sharpness("neg_max_prob", 1e6)):
        own = GradientFilter(1e-9)
        loss_options = {"penalty": penalty, "reduction": "sum", "label_smoothing": 0.0 if penalty else 1e-7}
        ours, exact = (gradients(tensors, target, used, loss_options=loss_options) for used in (own, None))
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)
        counts.append(own.bound.left_out)
    assert counts[0] > counts[1]


def test_products_of_what_is_left_out_are_not_made():
    tensors, target = sure_rows()
    own = GradientFilter(1e-6 / N)
    with CountProducts({"fluxcore::linear_cross_entropy_fwd": ce_passes.forward}) as count:
        gradients(tensors, target, own, rows=N)
    kept = 1 - own.bound.left_out
    assert 0 < kept < 0.75
    gram = N * D * min(N, D)
    assert count.flop == pytest.approx(2 * (N * D * V * (1 + 2 * kept.item()) + gram))
    with CountProducts({"fluxcore::linear_cross_entropy_fwd": ce_passes.forward}) as count:
        gradients(tensors, target, GradientFilter(1e9), rows=N)
    assert count.flop == 2 * (N * D * V + gram)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_part_has_no_error(frozen):
    tensors, target = sure_rows()
    tensors[frozen].requires_grad_(False)
    own = GradientFilter(1e-3 / N)
    ours, exact = (gradients(tensors, target, used, rows=12) for used in (own, None))
    other = 1 - frozen
    assert own.bound[frozen] == 0
    assert ours[frozen] is None
    assert 0 < (ours[other] - exact[other]).norm() <= own.bound[other]


def test_bounds_add_up_as_gradients_do():
    tensors, target = sure_rows()
    own = GradientFilter(1e-3 / N)
    gradients(tensors, target, own)
    once = own.bound
    for upstream in (3.0, -1.0):
        gradients(tensors, target, own, upstream=upstream)
    torch.testing.assert_close(own.bound, (5 * once.input, 5 * once.weight, once.left_out))
    own.reset()
    assert own.bound == (0, 0, 0)
    with torch.no_grad():
        loss = linear_cross_entropy(*tensors[:2], target, options=LinearOptions(gradient_filter=own))
    assert not loss.requires_grad
    frozen = [value.detach() for value in tensors[:2]]
    assert not linear_cross_entropy(*frozen, target, options=LinearOptions(gradient_filter=own)).requires_grad


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiles_without_a_graph_break(reduction):
    tensors, target = sure_rows()
    own = GradientFilter(1e-3 / N)

    def loss(hidden, weight):
        options = LinearOptions(gradient_filter=own)
        return 2 * linear_cross_entropy(hidden, weight, target, reduction=reduction, options=options).sum()

    hidden, weight, _ = tensors
    loss(hidden, weight).backward()
    expected = hidden.grad, weight.grad, *own.bound
    hidden.grad = weight.grad = None
    own.reset()
    torch.compile(loss, fullgraph=True)(hidden, weight).backward()
    torch.testing.assert_close((hidden.grad, weight.grad, *own.bound), expected)
    torch.compiler.reset()


def test_opcheck():
    tensors, target = sure_rows(dtype=torch.float32)
    options = ("softmax", "mean", 5, 0.0, 0.01, "non_max_sum", 0.5, 0, 1, 0.9, 20.0)
    sums = GradientFilter(1e-3 / N).sums
    call = (*tensors, target, None, None, None, sums, *options, 0, 12, 0, None, 0, 1e-3 / N, None, None)
    op = torch.ops.fluxcore.linear_cross_entropy_fwd
    torch.library.opcheck(op, (*call, [True] * 3))
    saved = op(*call, [False] * 3)[2:6]
    detached = [value.detach() if isinstance(value, torch.Tensor) else value for value in call]
    call = (torch.tensor(2.0), *detached[:8], *saved, *detached[8:], [True, True, False])
    torch.library.opcheck(torch.ops.fluxcore.linear_cross_entropy_bwd, call)


def test_explain_tells_of_it():
    shapes = {"input": (N, D), "linear_weight": (V, D)}
    own = GradientFilter(1e-6)
    plain, filtered = (
        fluxcore.explain("linear_cross_entropy", shapes, options=LinearOptions(gradient_filter=used))
        for used in (None, own)
    )
    names = [[launch.kernel for launch in schedule.forward] for schedule in (plain, filtered)]
    assert set(names[1]) - set(names[0]) == {"norms of classes"}
    assert filtered.workspace_bytes > plain.workspace_bytes
    assert sum(launch.flop for launch in filtered.forward) == sum(launch.flop for launch in plain.forward)
    assert own.bound == (0, 0, 0)


def test_bad_input_is_named_with_the_way_out():
    for threshold in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"`threshold` must be finite and >= 0, got {threshold}"):
            GradientFilter(threshold)
    with pytest.raises(TypeError, match="`gradient_filter` must be a GradientFilter, or None, got float"):
        LinearOptions(gradient_filter=1e-3)
    (hidden, weight, _), target = sure_rows()
    options = LinearOptions(gradient_filter=GradientFilter(1e-3, device="meta"))
    with pytest.raises(ValueError, match=r"`options.gradient_filter` must be on .*, cpu, got meta\n\nMake it with"):
        linear_cross_entropy(hidden, weight, target, options=options)
    options = LinearOptions(gradient_filter=GradientFilter(1e-3))
    with pytest.raises(ValueError, match=r"`options.gradient_filter` must be None but in `linear_cross_entropy`"):
        linear_softmax_stats(hidden, weight, outputs=("lse",), options=options)
    with pytest.raises(ValueError, match=r"`options.gradient_filter` must be None but in `linear_cross_entropy`"):
        linear_kl_div(hidden, weight, hidden.detach(), weight.detach(), options=options)
