"""Defects found in other libraries' kernels for logits; each has a test here, on every op and backend it could hit."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pytest
import torch
from support import naive
from support.devices import device_fixture
from support.numerics import assert_no_less_accurate
from torch import Tensor

from fluxcore import Sharpness, cross_entropy, entropy_from_logits, kl_div, reference, softmax_stats
from fluxcore.backends import Backend

device = device_fixture(get_args(Backend))

Op = Callable[[Any, Tensor, Tensor], Tensor]
"""A value [N] of rows of logits [N, V] and classes [N], by the functions of its first argument: `Calls`."""


class Calls(NamedTuple):
    """The functions that an `Op` may call: of the library, of the definition or of a rival."""

    softmax_stats: Callable[..., Any] = softmax_stats
    cross_entropy: Callable[..., Any] = cross_entropy
    kl_div: Callable[..., Any] = kl_div


OURS = Calls()
DEFINITION = Calls(reference.softmax_stats, reference.cross_entropy, reference.kl_div)


def statistic(name: str, **options: Any) -> Op:
    def call(of, logits, target):
        return getattr(of.softmax_stats(logits, target, outputs=(name,), **options), name)

    return call


def loss(**options: Any) -> Op:
    def call(of, logits, target):
        return of.cross_entropy(logits, target, reduction="none", **options)

    return call


def divergence(direction: str) -> Op:
    def call(of, logits, target):
        ref_logits = logits.detach().roll(1, 0).roll(1, -1)
        return of.kl_div(logits, ref_logits, direction=direction, reduction="none")

    return call


OPS = {
    "lse": statistic("lse"),
    "logprob": statistic("logprob"),
    "entropy": statistic("entropy"),
    "varentropy": statistic("varentropy"),
    "one_minus_max_prob": statistic("one_minus_max_prob"),
    "top_k_mass": statistic("top_k_mass", top_k=2),
    "cross_entropy": loss(),
    "smoothed": loss(label_smoothing=0.1, lse_square_scale=0.01),
    "penalised": loss(penalty=Sharpness("neg_entropy", 0.3)),
    "stablemax": loss(link="stablemax"),
    "policy_ref": divergence("policy_ref"),
    "ref_policy": divergence("ref_policy"),
    "jsd": divergence("jsd"),
}
every_op = pytest.mark.parametrize("name", OPS)


@pytest.fixture
def op(name):
    return OPS[name]


def value_and_gradient(op, of, logits, target, upstream):
    leaf = logits.detach().requires_grad_()
    value = op(of, leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf, upstream.to(value.dtype))[0]


def assert_as_defined(op, logits, target):
    upstream = torch.randn(target.shape, device=logits.device)
    ours = value_and_gradient(op, OURS, logits, target, upstream)
    exact = value_and_gradient(op, DEFINITION, logits.double(), target, upstream)
    for got, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@every_op
@pytest.mark.parametrize("V", [3, 65, 257, 2051, 4099])
def test_columns_after_the_last_class_do_not_count(V, op, device):
    # Neither those that pad a block, which a logit of 0 would make the largest of all, nor those in memory.
    memory = torch.full((4, V + 70), 40.0, device=device)
    logits = memory[:, :V]
    logits.copy_(torch.randn(4, V, device=device) - (0 if op is OPS["stablemax"] else 60))
    assert_as_defined(op, logits, torch.randint(V, (4,), device=device))


@pytest.mark.parametrize("name", [name for name in OPS if name != "stablemax"])  # whose definition has no maximum
@pytest.mark.parametrize("V", [40, 3000])
def test_the_maximum_of_rows_far_below_zero_is_found(V, op, device):
    # A running maximum that starts at 0 leaves e^-300 = 0 of every class.
    logits = 2 * torch.randn(4, V, device=device) - 300
    assert_as_defined(op, logits, torch.randint(V, (4,), device=device))


def penalty(x):
    target = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)
    rows = {"logits": x, "target": target, "reduction": "none"}
    return cross_entropy(penalty=Sharpness("neg_entropy", 1.0), **rows) - cross_entropy(**rows)


ENTROPIES = {
    "entropy_from_logits": entropy_from_logits,
    "softmax_stats": lambda x: softmax_stats(x, outputs=("lse", "entropy")).entropy,
    "penalty": penalty,
}


@pytest.mark.parametrize("name", ENTROPIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_gradient_of_the_entropy_is_not_dropped(dtype, name, device):
    logits = (3 * torch.randn(2, 7, 300, device=device)).to(dtype)
    upstream = torch.randn(2, 7, device=device)

    def value_and_gradient(function, x):
        leaf = x.requires_grad_()
        value = function(leaf)
        return value.detach(), torch.autograd.grad(value, leaf, upstream.to(value.dtype))[0]

    ours, our_gradient = value_and_gradient(ENTROPIES[name], logits.clone())
    exact, exact_gradient = value_and_gradient(
        lambda x: torch.distributions.Categorical(logits=x).entropy(), logits.double()
    )
    than, than_gradient = value_and_gradient(lambda x: naive.softmax_stats(x).entropy, logits.clone())
    assert our_gradient.abs().max() > 0.01
    if name == "penalty":  # a difference of two losses, each rounded
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-5)
        rounding = 4 * torch.finfo(dtype).eps * upstream.abs().max().item()
        torch.testing.assert_close(our_gradient.double(), exact_gradient, rtol=0, atol=rounding)
        return
    assert_no_less_accurate(ours, than=than, exact=exact)
    assert_no_less_accurate(our_gradient, than=than_gradient, exact=exact_gradient)


@every_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_nothing_between_forward_and_backward_is_rounded_to_the_dtype_of_the_logits(dtype, op, device):
    # An entropy of log 30000 is up to 0.03 off in bfloat16, and so is log p + H, which is no larger in a flat row.
    logits = (0.1 * torch.randn(4, 3000, device=device)).to(dtype)
    target = torch.randint(3000, (4,), device=device)
    upstream = torch.randn(4, device=device)
    value, gradient = value_and_gradient(op, OURS, logits, target, upstream)
    same, unrounded = value_and_gradient(op, OURS, logits.float(), target, upstream)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, same, rtol=1e-6, atol=1e-6)
    assert gradient.dtype == dtype
    # Only the gradient itself is rounded, once; the tail of float16 is coarser than its eps says.
    finfo = torch.finfo(dtype)
    least = max(finfo.smallest_normal * finfo.eps, 1e-6 * unrounded.abs().max().item())
    torch.testing.assert_close(gradient.float(), unrounded, rtol=finfo.eps, atol=least)


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_row_gets_its_own_upstream_gradient(dtype, op, device):
    # Kernels that were tried with loss.sum() alone read one number for all rows, or rows at the wrong stride.
    logits = torch.randn(6, 33, device=device).to(dtype).requires_grad_()
    target = torch.randint(33, (6,), device=device)
    rows = op(OURS, logits, target)
    upstream = torch.randn(6, device=device)

    def gradient(upstream):
        return torch.autograd.grad(rows, logits, upstream, retain_graph=True)[0].float()

    ones = gradient(torch.ones(6, device=device))
    rtol = 2 * torch.finfo(dtype).eps
    expected = ones * upstream.unsqueeze(-1)
    # Where the terms of a gradient cancel, what is left has their roundings.
    rounding = rtol * expected.abs().max().item()
    torch.testing.assert_close(gradient(upstream), expected, rtol=rtol, atol=rounding)
    assert torch.equal(gradient(torch.ones((), device=device).expand(6)), ones)
    strided = torch.stack((upstream, torch.full_like(upstream, torch.nan)), -1)[:, 0]
    assert torch.equal(gradient(strided), gradient(upstream))
    backwards = torch.autograd.grad(rows.flip(0), logits, upstream, retain_graph=True)[0].float()
    assert torch.equal(backwards, gradient(upstream.flip(0)))


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["cross_entropy", "penalised", "jsd"])
def test_compiled_losses_are_0_at_ignored_rows(name, op, device):
    logits = torch.randn(8, 33, device=device)
    target = torch.randint(33, (8,), device=device)
    ignored = torch.tensor([0, 3, 7], device=device)
    target[ignored] = -100
    logits[0], logits[3, 5] = torch.nan, torch.inf

    def rows(logits, target):
        if name != "jsd":
            return 2 * op(OURS, logits, target)
        weight = (target != -100).float()
        return 2 * kl_div(logits, logits.detach().flip(-1), direction=name, token_weight=weight, reduction="none")

    leaf = logits.requires_grad_()
    compiled = torch.compile(rows, fullgraph=True)(leaf, target)
    compiled.sum().backward()
    torch.compiler.reset()
    assert compiled[ignored].eq(0).all()
    assert leaf.grad[ignored].eq(0).all()
    torch.testing.assert_close(compiled, rows(logits, target))
    assert compiled.isfinite().all()
    assert leaf.grad.isfinite().all()
