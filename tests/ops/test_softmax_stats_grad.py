"""Gradients of `softmax_stats` on every backend, against autograd of the float64 definition."""

import pytest
import torch
from support import naive
from support.numerics import assert_no_less_accurate, assert_relatively_accurate

from fluxcore import SoftmaxStats, reference, softmax_stats

REAL = SoftmaxStats._fields[:-1]


def gradient(function, logits, upstream, **options):
    leaf = logits.detach().requires_grad_()
    stats = function(leaf, **options)
    wanted = [name for name in upstream if getattr(stats, name) is not None]
    outputs = [getattr(stats, name) for name in wanted]
    grads = [upstream[name].to(output.dtype) for name, output in zip(wanted, outputs, strict=True)]
    (grad,) = torch.autograd.grad(outputs, leaf, grads)
    return grad


def assert_gradient_accurate(logits, target, names, *, top_k, **options):
    upstream = {name: torch.randn(logits.shape[:-1], device=logits.device) for name in names}
    k = top_k if "top_k_mass" in names else None
    y = target if "logprob" in names else None
    ours = gradient(softmax_stats, logits, upstream, target=y, outputs=names, top_k=k, **options)
    than = gradient(naive.softmax_stats, logits, upstream, target=target, top_k=top_k, **options)
    exact = gradient(
        reference.softmax_stats, logits.double(), upstream, target=target, outputs=names, top_k=top_k, **options
    )
    assert ours.dtype == logits.dtype
    assert_no_less_accurate(ours, than=than, exact=exact)


@pytest.mark.parametrize(
    ("names", "dtype"),
    [((name,), dtype) for name in REAL for dtype in (torch.float32, torch.float64)]
    + [(REAL, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)],
    ids=lambda value: str(value) if isinstance(value, torch.dtype) else "+".join(value),
)
def test_each_output_and_all_together(names, dtype, device):
    for shape in [(50, 2), (2, 9, 65), (9, 257), (16, 2500)]:
        logits = (3 * torch.randn(shape, device=device)).to(dtype)
        target = torch.randint(shape[-1], shape[:-1], device=device)
        target[..., 0] = logits[..., 0, :].argmax(-1)
        assert_gradient_accurate(logits, target, names, top_k=2)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"softcap": 30.0}, {"temperature": 2.5, "softcap": 5.0}], ids=str
)
def test_temperature_and_softcap(options, device):
    logits = 10 * torch.randn(5, 131, device=device)
    assert_gradient_accurate(logits, torch.arange(5, device=device), REAL, top_k=3, **options)


@pytest.mark.parametrize("name", REAL)
def test_finite_differences_agree(name, device):
    logits = torch.randn(2, 5, device=device, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 4], device=device)

    def stat(x):
        k = 2 if name == "top_k_mass" else None
        return getattr(softmax_stats(x, target, outputs=(name,), top_k=k, temperature=0.8, softcap=9.0), name)

    torch.autograd.gradcheck(stat, logits, fast_mode=True)


@pytest.mark.parametrize("margin", [5.0, 15.0, 30.0, 60.0])
def test_the_gradient_of_a_sure_row_keeps_its_digits(margin, device):
    V = 700
    logits = torch.rand(4, V, device=device)
    sure = torch.tensor([0, 1, V // 2, V - 1], device=device)
    logits.scatter_(-1, sure[:, None], margin)
    for name in ("logprob", "max_prob", "one_minus_max_prob", "top_k_mass"):
        options = {"target": sure, "outputs": (name,), "top_k": 2 if name == "top_k_mass" else None}
        upstream = {name: torch.ones(4, device=device)}
        ours = gradient(softmax_stats, logits, upstream, **options)
        exact = gradient(reference.softmax_stats, logits.double(), upstream, **options)
        assert (ours.gather(-1, sure[:, None]) != 0).all()
        assert_relatively_accurate(ours, exact=exact, margin=2 * margin)


def test_upstream_gradients_of_any_layout_and_subset(device):
    logits = torch.randn(4, 50, device=device)
    upstream = torch.randn(4, device=device)
    expected = gradient(softmax_stats, logits, {"entropy": upstream}, outputs=("entropy",))
    strided = torch.stack((upstream, upstream), -1)[:, 0]
    among_others = gradient(softmax_stats, logits, {"entropy": strided}, outputs=("lse", "entropy", "max_prob"))
    torch.testing.assert_close(among_others, expected)
    leaf = logits.clone().requires_grad_()
    softmax_stats(leaf, outputs=("lse", "entropy")).entropy.sum().backward()  # an expanded scalar
    ones = gradient(softmax_stats, logits, {"entropy": torch.ones(4, device=device)}, outputs=("entropy",))
    torch.testing.assert_close(leaf.grad, ones, rtol=0, atol=0)


def test_how_rows_are_spread_does_not_matter(device):
    logits = torch.randn(20, 5003, device=device)
    upstream = {name: torch.randn(20, device=device) for name in ("lse", "entropy", "varentropy")}
    together = gradient(softmax_stats, logits, upstream, outputs=tuple(upstream))
    few = gradient(
        softmax_stats, logits[3:5], {name: value[3:5] for name, value in upstream.items()}, outputs=tuple(upstream)
    )
    torch.testing.assert_close(few, together[3:5])


def test_strided_logits_get_a_gradient_of_their_shape(device):
    base = torch.randn(5, 2, 77, device=device, requires_grad=True)
    softmax_stats(base[:, 1, 3:74], outputs=("entropy",)).entropy.sum().backward()
    plain = base.detach()[:, 1, 3:74].clone().requires_grad_()
    softmax_stats(plain, outputs=("entropy",)).entropy.sum().backward()
    torch.testing.assert_close(base.grad[:, 1, 3:74], plain.grad)
    assert base.grad[:, 0].eq(0).all()
    transposed = torch.randn(6, 9, device=device, requires_grad=True)
    softmax_stats(transposed.t(), outputs=("lse",)).lse.sum().backward()
    torch.testing.assert_close(transposed.grad, transposed.detach().softmax(0))


def test_masked_classes_and_rows_get_zero(device):
    logits = torch.randn(5, 40, device=device)
    logits[0, ::2] = -torch.inf
    logits[1, 3] = torch.nan
    logits[2] = -torch.inf
    upstream = {name: torch.randn(5, device=device) for name in REAL}
    for value in upstream.values():
        value[1:3] = 0
    target = torch.tensor([1, 0, 0, 3, 4], device=device)
    grad = gradient(softmax_stats, logits, upstream, target=target, outputs=REAL, top_k=3)
    assert grad[0, ::2].eq(0).all()
    assert grad[1:3].eq(0).all()
    assert grad.isfinite().all()


def test_a_target_out_of_range_poisons_its_own_row_only(device):
    logits = torch.randn(4, 30, device=device)
    target = torch.tensor([1, 30, -1, -100], device=device)
    upstream = {"logprob": torch.tensor([1.0, 1.0, 1.0, 0.0], device=device), "lse": torch.ones(4, device=device)}
    grad = gradient(softmax_stats, logits, upstream, target=target, outputs=("lse", "logprob"))
    assert grad[1:3].isnan().all()
    torch.testing.assert_close(grad[3], logits[3].softmax(-1))
    assert grad[0].isfinite().all()


def test_a_poisoned_row_has_no_finite_gradient_that_looks_right(device):
    logits = torch.randn(3, 40, device=device)
    logits[0, 3], logits[1, 3] = torch.nan, torch.inf
    grad = gradient(softmax_stats, logits, {"entropy": torch.ones(3, device=device)}, outputs=("entropy",))
    assert grad[:2].isnan().all()
    assert grad[2].isfinite().all()


def test_ties_within_the_top_k_go_to_the_first_index(device):
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]], device=device)
    upstream = {"top_k_mass": torch.ones(2, device=device)}
    ours = gradient(softmax_stats, logits, upstream, outputs=("top_k_mass",), top_k=3)
    assert (ours > 0).tolist() == [[False, True, True, True, False, False], [True, True, True, False, False, False]]


def test_bitwise_equal_from_run_to_run(device):
    logits = torch.randn(5, 3000, device=device)
    upstream = {name: torch.randn(5, device=device) for name in ("lse", "entropy", "varentropy")}
    first, second = (gradient(softmax_stats, logits, upstream, outputs=tuple(upstream)) for _ in "ab")
    assert torch.equal(first, second)


def test_no_rows(device):
    logits = torch.randn(0, 7, device=device, requires_grad=True)
    softmax_stats(logits, outputs=("entropy",)).entropy.sum().backward()
    assert logits.grad.shape == (0, 7)
