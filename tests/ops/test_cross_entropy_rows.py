"""Which rows count in `cross_entropy`, what the reductions make of them, and the statistics beside the loss."""

import pytest
import torch
from support.devices import device_fixture

from fluxcore import SoftmaxStats, softmax_stats
from fluxcore.ops import _cross_entropy_backends as backends
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.sharpness import Sharpness

device = device_fixture(backends.BACKENDS)
REDUCTIONS = ["none", "mean", "sum", "token_mean"]


def gradient(loss, leaf, upstream=None):
    (result,) = torch.autograd.grad(loss, leaf, upstream)
    return result


def test_reductions_divide_by_what_the_docstring_says(device):
    logits = torch.randn(5, 9, device=device)
    target = torch.tensor([3, -100, 0, 8, 3], device=device)
    a = torch.tensor([0.5, 7.0, 2.0, 0.0, 1.5], device=device)
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5], device=device)
    weight = torch.rand(9, device=device)
    counts = (target != -100).float()
    ce = a * cross_entropy(logits, target, weight=weight, reduction="none")
    lse = logits.logsumexp(-1)
    z = counts * a * 0.1 * lse.square()
    entropy = counts * a * mask * 0.3 * softmax_stats(logits, outputs=("entropy",)).entropy
    divisors = {
        "sum": (1, 1, 1),
        "mean": ((counts * weight[target.clamp(min=0)]).sum(), counts.sum(), (counts * a * mask).sum()),
        "token_mean": ((counts * a).sum(), (counts * a).sum(), (counts * a * mask).sum()),
    }
    options = {"weight": weight, "token_weight": a, "lse_square_scale": 0.1, "penalty_mask": mask}
    options["penalty"] = Sharpness("neg_entropy", 0.3)
    rows = cross_entropy(logits, target, reduction="none", **options)
    torch.testing.assert_close(rows, ce + z + entropy)
    for reduction, divisor in divisors.items():
        expected = sum(term.sum() / by for term, by in zip((ce, z, entropy), divisor, strict=True))
        torch.testing.assert_close(cross_entropy(logits, target, reduction=reduction, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS[1:])
def test_the_upstream_gradient_scales_a_scalar_loss(reduction, dtype, device):
    logits = torch.randn(6, 33, device=device).to(dtype).requires_grad_()
    target = torch.randint(33, (6,), device=device)
    unit = gradient(cross_entropy(logits, target, reduction=reduction), logits)
    for factor in (1.0, 0.0, -3.0):
        scaled = gradient(factor * cross_entropy(logits, target, reduction=reduction), logits)
        rtol = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(scaled, factor * unit, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_upstream_gradient_of_zero_makes_zeros_of_poisoned_rows_too(reduction, device):
    logits = torch.randn(4, 40, device=device)
    logits[1, 3] = torch.nan
    target = torch.randint(40, (4,), device=device)
    leaf = logits.requires_grad_()
    loss = cross_entropy(leaf, target, reduction=reduction)
    ours = gradient(loss, leaf, torch.zeros_like(loss))
    assert ours.eq(0).all()


def test_a_loss_scale_saves_float16_gradients_from_underflow(device):
    logits = torch.zeros(4, 100, device=device, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(4, dtype=torch.int64, device=device)
    loss = cross_entropy(logits, target, token_weight=torch.full((4,), 1e-7, device=device))
    scaled = gradient(65536 * loss, logits)
    assert scaled.ne(0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("how", ["ignored", "weightless"])
def test_rows_that_do_not_count_give_zero_whatever_they_hold(how, reduction, device):
    logits = torch.randn(6, 40, device=device)
    bad = torch.tensor([1, 3, 4], device=device)
    clean = logits.clone()
    logits[1], logits[3, 5], logits[4, 7] = -torch.inf, torch.nan, torch.inf
    target = torch.randint(40, (6,), device=device)
    target[bad] = -100
    options = {"token_weight": torch.ones(6, device=device)}
    if how == "weightless":
        target[bad] = torch.tensor([-7, 40, 2], device=device)
        options["token_weight"][bad] = 0
    options |= {"penalty": Sharpness("neg_entropy", 0.3), "lse_square_scale": 0.1, "reduction": reduction}
    leaf, clean_leaf = logits.requires_grad_(), clean.requires_grad_()
    loss, expected = cross_entropy(leaf, target, **options), cross_entropy(clean_leaf, target, **options)
    torch.testing.assert_close(loss, expected)
    if reduction == "none":
        assert loss[bad].eq(0).all()
    ours = gradient(loss.sum(), leaf)
    assert ours[bad].eq(0).all()
    torch.testing.assert_close(ours, gradient(expected.sum(), clean_leaf))
    assert ours.isfinite().all()


def test_an_ignored_class_within_range_does_not_count(device):
    logits = torch.randn(4, 7, device=device)
    target = torch.tensor([2, 0, 2, 6], device=device)
    ours = cross_entropy(logits, target, ignore_index=2)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, target, ignore_index=2))


@pytest.mark.parametrize(("reduction", "expected"), [("mean", torch.nan), ("token_mean", torch.nan), ("sum", 0.0)])
@pytest.mark.parametrize("rows", [0, 3])
def test_when_no_row_counts(rows, reduction, expected, device):
    logits = torch.randn(rows, 7, device=device, requires_grad=True)
    target = torch.full((rows,), -100, device=device)
    options = {"reduction": reduction, "penalty": Sharpness("neg_entropy", 1.0)}
    loss = cross_entropy(logits, target, **options)
    torch.testing.assert_close(loss.item(), expected, equal_nan=True)
    assert gradient(loss, logits).eq(0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_target_out_of_range_poisons_its_own_row(reduction, device):
    logits = torch.randn(5, 30, device=device, requires_grad=True)
    target = torch.tensor([1, 30, -1, -100, 29], device=device)
    loss = cross_entropy(logits, target, reduction=reduction)
    assert loss.isnan().tolist() == ([False, True, True, False, False] if reduction == "none" else True)
    upstream = torch.tensor([1.0, 1, 0, 1, 1], device=device) if reduction == "none" else None
    ours = gradient(loss, logits, upstream)
    assert ours[1].isnan().all()
    assert ours[2].eq(0).all() if reduction == "none" else ours[2].isnan().all()
    assert ours[[0, 4]].isfinite().all()
    assert ours[3].eq(0).all()


def test_rows_without_a_distribution_have_loss_nan(device):
    for link in ("softmax", "stablemax"):
        logits = torch.randn(4, 30, device=device)
        logits[0], logits[1, 3], logits[2, 4] = -torch.inf, torch.nan, torch.inf
        leaf = logits.requires_grad_()
        loss = cross_entropy(leaf, torch.tensor([1, 2, 4, 5], device=device), reduction="none", link=link)
        assert loss.isnan().tolist() == [True, True, True, False]
        ours = gradient(loss, leaf, torch.tensor([0.0, 0, 0, 1], device=device))
        assert ours.isfinite().all()


def test_masked_classes(device):
    for link in ("softmax", "stablemax"):
        logits = torch.randn(3, 20, device=device)
        logits[:, ::2] = -torch.inf
        leaf = logits.requires_grad_()
        target = torch.tensor([1, 2, 3], device=device)
        loss = cross_entropy(leaf, target, reduction="none", link=link)
        kept = cross_entropy(leaf[:, 1::2], target // 2, reduction="none", link=link)
        torch.testing.assert_close(loss[[0, 2]], kept[[0, 2]])
        assert loss[1] == torch.inf
        ours = gradient(loss[[0, 2]].sum(), leaf)
        assert ours[:, ::2].eq(0).all()
        assert ours.isfinite().all()
        assert cross_entropy(leaf, target, label_smoothing=0.1, link=link) == torch.inf
        weight = torch.ones(20, device=device)
        weight[::2] = 0
        smooth = cross_entropy(leaf, target * 0 + 1, label_smoothing=0.1, weight=weight, link=link)
        assert smooth.isfinite()


def test_any_layout_gives_the_same(device):
    logits = torch.randn(6, 130, device=device)
    target = torch.arange(12, device=device)[::2]
    probabilities = logits.softmax(-1)
    wide = torch.randn(6, 3, 143, device=device)
    expected = [cross_entropy(logits, t, reduction="none") for t in (target, probabilities)]
    for view in (wide[:, 1, :130], wide[:, 2, 1:131], logits.t().contiguous().t()):
        view.copy_(logits)
        for t, value in zip((target, probabilities), expected, strict=True):
            torch.testing.assert_close(cross_entropy(view, t, reduction="none"), value, rtol=3e-6, atol=0)
        view.copy_(probabilities)
        torch.testing.assert_close(cross_entropy(logits, view, reduction="none"), expected[1], rtol=3e-6, atol=0)
    same = probabilities[:1].expand(6, 130)
    by_stride = cross_entropy(logits, same, reduction="none")
    torch.testing.assert_close(by_stride, cross_entropy(logits, same.clone(), reduction="none"), rtol=0, atol=0)
    base = torch.randn(5, 2, 77, device=device, requires_grad=True)
    cross_entropy(base[:, 1, 3:74], target[:5], reduction="sum").backward()
    plain = base.detach()[:, 1, 3:74].clone().requires_grad_()
    cross_entropy(plain, target[:5], reduction="sum").backward()
    torch.testing.assert_close(base.grad[:, 1, 3:74], plain.grad)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_statistics_are_those_of_softmax_stats(reduction, device):
    logits = torch.randn(2, 3, 50, device=device, requires_grad=True)
    target = torch.tensor([[1, -100, 49], [50, 0, 7]], device=device)
    names = SoftmaxStats._fields
    options = {"temperature": 0.8, "softcap": 9.0}
    loss, stats = cross_entropy(
        logits, target, reduction=reduction, penalty=Sharpness("top_k_mass", 1.0, k=4), return_stats=names, **options
    )
    expected = softmax_stats(logits, target, outputs=names, top_k=4, **options)
    for name in names:
        value = getattr(stats, name)
        assert not value.requires_grad
        torch.testing.assert_close(value, getattr(expected, name).detach(), equal_nan=True, rtol=3e-6, atol=1e-6)
    assert loss.shape == ((2, 3) if reduction == "none" else ())
    _, only = cross_entropy(logits, target, return_stats=("argmax",))
    assert torch.equal(only.argmax, expected.argmax)
    assert only.entropy is None


def test_bitwise_equal_from_run_to_run(device):
    logits = torch.randn(5, 3000, device=device)
    target = torch.arange(5, device=device)
    options = {"penalty": Sharpness("neg_entropy", 0.3), "label_smoothing": 0.1}
    runs = []
    for _ in "ab":
        leaf = logits.clone().requires_grad_()
        loss = cross_entropy(leaf, target, **options)
        runs.append((loss.detach(), gradient(loss, leaf)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_of_a_whole_take_its_divisors_as_given(reduction, device):
    logits, target = torch.randn(6, 40, device=device), torch.tensor([3, -100, 39, 0, 7, 7], device=device)
    inputs = (target, torch.rand(40, device=device), torch.rand(6, device=device), torch.rand(6, device=device))
    options = backends.Options("softmax", reduction, -100, 0.1, 0.01, "top_k_mass", 0.5, 3, 127, 0.9, 20.0)
    whole = backends.forward(logits, *inputs, *options, reduction != "none")
    losses, stats, gradients = [], [], []
    for start in (0, 4):
        own = slice(start, start + 4)
        chunk = [value[own] for value in (logits, *inputs)]
        chunk[2] = inputs[1]  # of the classes
        given = options._replace(reduction="given")
        results = backends.empty_results(chunk[0], given, True)
        results.totals.copy_(whole.totals)
        backends.forward(*chunk, *given, True, results=results)
        losses.append(results.loss)
        stats.append(results.stats)
        gradients.append(results.gradient)
        again = torch.full_like(chunk[0], torch.nan)
        state = (results.argmax, results.state, results.top_index, results.totals)
        backends.backward(results.totals.new_ones(()), *chunk, *state, *given, gradient=again)
        torch.testing.assert_close(again, results.gradient)
    rows = torch.cat(losses)
    torch.testing.assert_close(rows if reduction == "none" else rows.sum(), whole.loss)
    torch.testing.assert_close(torch.cat(stats, 1), whole.stats, equal_nan=True)
    if reduction != "none":
        torch.testing.assert_close(torch.cat(gradients), whole.gradient)
