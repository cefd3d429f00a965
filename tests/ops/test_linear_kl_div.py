"""`linear_kl_div` on every backend: values and gradients against the float64 definition, chunks, products, as an op."""

import pytest
import torch
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate
from support.products import CountProducts

from fluxcore import LinearOptions, linear_kl_div, reference
from fluxcore.ops import _linear_kl_div_op as passes
from fluxcore.ops._kl_div_backends import BACKENDS
from fluxcore.ops.kl_div import kl_div

device = device_fixture(BACKENDS)
F = torch.nn.functional
IMPLEMENTATIONS = {
    "fluxcore::linear_kl_div_fwd": passes.forward,
    "fluxcore::linear_kl_div_bwd": passes.backward,
}
DIRECTIONS = ["policy_ref", "ref_policy", "jsd"]


def leaves(device, dtype=torch.float32, N=14, V=60):
    """The policy's three tensors, and the reference's, which is wider."""
    shapes = [(N, 6), (V, 6), (V,)]
    policy = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    return policy, [torch.randn(shape, device=device).to(dtype) for shape in [(N, 9), (V, 9), (V,)]]


def ours(policy, ref, rows=5, **options):
    biases = {"linear_bias": policy[2], "ref_linear_bias": ref[2]}
    return linear_kl_div(*policy[:2], *ref[:2], **biases, options=LinearOptions(rows=rows), **options)


def by_logits(function, policy, ref, **options):
    return function(F.linear(*policy), F.linear(*ref), **options)


def gradients(loss, tensors):
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1)).to(loss)
    return torch.autograd.grad(loss, tensors, upstream)


@pytest.mark.parametrize("reduction", ["none", "mean", "token_mean"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_values_and_gradients(dtype, direction, reduction, device):
    policy, ref = leaves(device, dtype)
    options = {"direction": direction, "beta": 0.3, "temperature": 0.8, "reduction": reduction}
    options["token_weight"] = torch.rand(14, device=device)
    value, than = ours(policy, ref, **options), by_logits(reference.kl_div, policy, ref, **options)
    wide = [tensor.detach().double().requires_grad_() for tensor in policy]
    exact = by_logits(reference.kl_div, wide, [tensor.double() for tensor in ref], **options)
    assert_no_less_accurate(value.detach(), than=than.detach(), exact=exact.detach())
    for our, naive, true, leaf in zip(
        gradients(value, policy), gradients(than, policy), gradients(exact, wide), policy, strict=True
    ):
        assert our.dtype == leaf.dtype
        assert_no_less_accurate(our, than=naive, exact=true)


@pytest.mark.parametrize("dead", [[], [0, 6, 7, 13]], ids=["", "weightless"])
@pytest.mark.parametrize("rows", [1, 5, 14, None])
def test_chunks_change_rounding_alone(rows, dead, device):
    policy, ref = leaves(device)
    options = {"token_weight": torch.ones(14, device=device), "reduction": "token_mean"}
    options["token_weight"][dead] = 0
    expected = by_logits(kl_div, policy, ref, **options)
    expected_gradients = gradients(expected, policy)
    policy[0].data[dead] = torch.nan
    value = ours(policy, ref, rows=rows, **options)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, policy), expected_gradients)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_two_equal_models_have_no_divergence_at_all(direction, device):
    policy, _ = leaves(device)
    value = ours(policy, [tensor.detach() for tensor in policy], direction=direction, reduction="none")
    assert value.eq(0).all()


def test_no_product_is_wasted_and_rows_without_upstream_gradient_get_none(device):
    (hidden, weight, bias), ref = leaves(device)
    policy, references = 2 * hidden.shape[0] * weight.numel(), 2 * 14 * ref[1].numel()
    with CountProducts(IMPLEMENTATIONS) as forward:
        value = ours((hidden, weight.detach(), bias), ref, reduction="none")
    assert forward.flop == policy + references
    upstream = torch.zeros(14, device=device)
    upstream[:7] = 1
    with CountProducts(IMPLEMENTATIONS) as backward:
        value.backward(upstream)
    assert backward.flop == (2 * policy + references) / (2 if device.type == "cpu" else 1)
    assert weight.grad is None


def test_finite_differences_agree(device):
    policy, ref = leaves(device, torch.float64, N=4, V=9)

    def loss(*policy):
        return ours(policy, ref, rows=3, direction="jsd", beta=0.3)

    assert_finite_differences_agree(loss, policy)


def test_opcheck(device):
    policy, ref = leaves(device, N=4)
    call = (*policy, *ref, torch.rand(4, device=device), "jsd", 0.3, "mean", 0.9, 0, 3, 0, None, 0, 0.0, None, None)
    torch.library.opcheck(torch.ops.fluxcore.linear_kl_div_fwd, call)
    loss, *saved = torch.ops.fluxcore.linear_kl_div_fwd(*call)
    tensors = [value.detach() for value in call[:7]]
    call = (torch.ones_like(loss).detach(), *tensors, *(value.detach() for value in saved), *call[7:], [True] * 3)
    torch.library.opcheck(torch.ops.fluxcore.linear_kl_div_bwd, call)


def test_autocast_multiplies_in_its_dtype(device):
    policy, ref = leaves(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(ours(policy, ref), by_logits(kl_div, policy, ref))


def test_a_second_derivative_is_refused(device):
    policy, ref = leaves(device)
    (gradient,) = torch.autograd.grad(ours(policy, ref), policy[0], create_graph=True)
    with pytest.raises(RuntimeError, match="`linear_kl_div` can be differentiated once"):
        gradient.square().sum().backward()


HIDDEN, WEIGHT = torch.randn(2, 4), torch.randn(3, 4)
HALVES = {"ref_input": HIDDEN.half(), "ref_linear_weight": WEIGHT.half()}


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`ref_linear_weight` must be float32", {"ref_linear_weight": WEIGHT.to(torch.int8)}),
        (TypeError, "`ref_input` must have the dtype of `input`", HALVES),
        (ValueError, r"`ref_input` must have the rows of `input`, \(2,\), got \(5,\)", {"ref_input": torch.ones(5, 4)}),
        (ValueError, "must have the classes of `linear_weight`, 3, got 7\n\n", {"ref_linear_weight": torch.ones(7, 4)}),
        (ValueError, "`ref_input` must not require grad", {"ref_input": torch.ones(2, 4, requires_grad=True)}),
        (ValueError, r"`beta` must be within \(0, 1\), got 1", {"beta": 1}),
        (ValueError, "must be at least 24 for one row of 3", {"options": LinearOptions(workspace_bytes=23)}),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_the_way_out(error, message, arguments):
    arguments = {"ref_input": HIDDEN, "ref_linear_weight": WEIGHT, **arguments}
    with pytest.raises(error, match=message):
        linear_kl_div(HIDDEN, WEIGHT, **arguments)
