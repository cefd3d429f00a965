"""`kl_div` on every backend that has it, against the float64 definition, and as an op."""

import math

import pytest
import torch
from support import naive
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate
from support.synchronisation import RecordSynchronisation

import fluxcore
from fluxcore import reference
from fluxcore.ops import _kl_div_backends as backends
from fluxcore.ops.kl_div import kl_div

device = device_fixture(backends.BACKENDS)
DIRECTIONS = ["policy_ref", "ref_policy", "jsd"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def rows_and_gradient(function, logits, ref_logits, **options):
    leaf = logits.detach().requires_grad_()
    rows = function(leaf, ref_logits, **options)
    upstream = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).to(rows)
    return rows.detach(), torch.autograd.grad(rows, leaf, upstream)[0]


def textbook(logits, ref_logits, direction, beta=0.5):
    """By the textbook's formula in float64, where the error is 1e-16 of the logits and not of the result."""
    return naive.kl_div(logits.double(), ref_logits.double(), direction=direction, beta=beta)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(dtype, direction, device):
    values = []
    for shape in [(1, 1), (40, 2), (4, 9, 65), (20, 257), (6, 2500), (3, 8193)]:
        logits, ref_logits = ((3 * torch.randn(shape, device=device)).to(dtype) for _ in "ab")
        options = {"direction": direction, "beta": 0.3, "temperature": 0.8}
        ours, our_gradient = rows_and_gradient(kl_div, logits, ref_logits, reduction="none", **options)
        than, than_gradient = rows_and_gradient(naive.kl_div, logits, ref_logits, **options)
        exact, exact_gradient = rows_and_gradient(
            reference.kl_div, logits.double(), ref_logits.double(), reduction="none", **options
        )
        assert our_gradient.dtype == dtype
        assert_no_less_accurate(our_gradient, than=than_gradient, exact=exact_gradient)
        values.append([rows.flatten() for rows in (ours, than, exact)])
    # The errors of a few rows are a matter of luck, those of all are not.
    ours, than, exact = (torch.cat(rows) for rows in zip(*values, strict=True))
    assert_no_less_accurate(ours, than=than, exact=exact)


@pytest.mark.parametrize("beta", [0.5, 0.1])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_definition_is_the_textbooks(direction, beta):
    logits, ref_logits = 3 * torch.randn(2, 4, 50, dtype=torch.float64)
    ours = reference.kl_div(logits, ref_logits, direction=direction, beta=beta, reduction="none")
    torch.testing.assert_close(ours, textbook(logits, ref_logits, direction, beta))
    one_way = reference.kl_div(logits, ref_logits, direction="policy_ref", reduction="none")
    other_way = reference.kl_div(ref_logits, logits, direction="ref_policy", reduction="none")
    torch.testing.assert_close(one_way, other_way)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_rows_have_no_divergence_at_all(direction, device):
    for V in (3, 257, 9000):
        logits = 5 * torch.randn(4, V, device=device)
        logits[1, 0] = 60
        logits[2, 1:] = -torch.inf
        rows, gradient = rows_and_gradient(kl_div, logits, logits.clone(), direction=direction, reduction="none")
        assert rows.eq(0).all()
        assert gradient.eq(0).all()
    whole = torch.randint(-9, 9, (4, 300), device=device).float()
    assert kl_div(whole, whole + 1000, direction=direction, reduction="none").eq(0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("h", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_nearly_equal_rows_keep_the_digits_of_a_tiny_divergence(h, direction, device):
    for V in (2, 300, 5000):
        logits = 3 * torch.randn(6, V, device=device)
        ref_logits = logits + h * torch.randn(6, V, device=device)
        ref_logits[3:] += 8  # a common offset is not a difference
        ours = kl_div(logits, ref_logits, direction=direction, reduction="none", beta=0.4).double()
        exact = reference.kl_div(logits.double(), ref_logits.double(), direction=direction, reduction="none", beta=0.4)
        # Each l = log(p/r) may have the rounding of a difference of two logits: then the sum of p l^2 / 2, by the
        # Cauchy-Schwarz inequality, is off by sqrt(2 KL) times that.
        eps = torch.finfo(torch.float32).eps
        rounding = eps * (logits - ref_logits).abs().amax(-1)
        allowed = 32 * eps * exact + 2 * (2 * exact).sqrt() * rounding + rounding.square()
        assert ((ours - exact).abs() <= allowed).all(), ((ours - exact).abs() / allowed).max()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("margin", [0.0, 15.0, 30.0, 45.0, 60.0])
def test_sure_rows_keep_their_digits(margin, direction, device):
    V = 700
    sure = torch.tensor([0, 1, V // 2, V - 1], device=device)
    logits, ref_logits = torch.rand(2, 4, V, device=device)
    logits.scatter_(-1, sure[:, None], margin)
    ref_logits.scatter_(-1, sure[:, None], margin + 0.5)
    ours, gradient = rows_and_gradient(kl_div, logits, ref_logits, direction=direction, reduction="none")
    exact, exact_gradient = rows_and_gradient(
        reference.kl_div, logits.double(), ref_logits.double(), direction=direction, reduction="none"
    )
    eps = torch.finfo(torch.float32).eps
    assert (ours > 0).all()
    assert ((ours - exact).abs() <= (32 + 2 * margin) * eps * exact).all(), ((ours - exact) / exact).abs().max()
    error = (gradient - exact_gradient).abs().gather(-1, sure[:, None])
    size = exact_gradient.abs().gather(-1, sure[:, None])
    assert (error <= (32 + 2 * margin) * eps * size).all()


def test_rows_that_disagree_entirely(device):
    logits, ref_logits = torch.zeros(2, 1, 50, device=device)
    logits[0, 3], ref_logits[0, 7] = 200, 300
    for direction, expected in [("policy_ref", 300.0), ("ref_policy", 200.0), ("jsd", math.log(2))]:
        leaf = logits.clone().requires_grad_()
        value = kl_div(leaf, ref_logits, direction=direction)
        torch.testing.assert_close(value.item(), expected, rtol=1e-6, atol=0)
        value.backward()
        assert leaf.grad.isfinite().all()


def test_excluded_classes(device):
    inf = torch.inf
    logits = torch.tensor([[0.0, 1.0, -inf, 2.0], [0.0, -inf, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]], device=device)
    ref_logits = torch.tensor([[1.0, 0.0, -inf, 2.0], [1.0, 0.0, 2.0, 2.0], [1.0, -inf, 0.0, 2.0]], device=device)
    p, r = logits.softmax(-1), ref_logits.softmax(-1)
    one_way = torch.where(p > 0, p * (p / r).log(), 0).sum(-1)
    other_way = torch.where(r > 0, r * (r / p).log(), 0).sum(-1)
    torch.testing.assert_close(kl_div(logits, ref_logits, reduction="none"), one_way)
    torch.testing.assert_close(kl_div(logits, ref_logits, direction="ref_policy", reduction="none"), other_way)
    assert one_way.isinf().tolist() == [False, False, True]
    assert other_way.isinf().tolist() == [False, True, False]
    for direction in DIRECTIONS:
        leaf = logits[:2].clone().requires_grad_()
        rows = kl_div(leaf, ref_logits[:2], direction=direction, reduction="none")
        rows[0 : 1 if direction == "ref_policy" else 2].sum().backward()
        assert leaf.grad.isfinite().all()
        assert leaf.grad[0, 2] == leaf.grad[1, 1] == 0
    jsd = kl_div(logits, ref_logits, direction="jsd", reduction="none")
    assert ((jsd > 0) & (jsd < math.log(2))).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_without_a_distribution_are_nan(direction, device):
    logits, ref_logits = torch.randn(2, 5, 20, device=device)
    logits[0], logits[1, 3], ref_logits[2], ref_logits[3, 4] = -torch.inf, torch.nan, -torch.inf, torch.inf
    rows = kl_div(logits, ref_logits, direction=direction, reduction="none")
    assert rows.isnan().tolist() == [True] * 4 + [False]
    weight = torch.tensor([0.0, 0, 0, 0, 2], device=device)
    leaf = logits.requires_grad_()
    loss = kl_div(leaf, ref_logits, direction=direction, token_weight=weight, reduction="sum")
    torch.testing.assert_close(loss, 2 * rows[4])
    loss.backward()
    assert leaf.grad[:4].eq(0).all()
    assert leaf.grad[4].ne(0).any()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "token_mean"])
def test_reductions_and_finite_differences(reduction, direction, device):
    logits, ref_logits = torch.randn(2, 2, 3, 6, device=device, dtype=torch.float64)
    weight = torch.tensor([[0.5, 2, 0], [1, -1, 3]], device=device)
    options = {"direction": direction, "beta": 0.3, "temperature": 0.8}

    def loss(x):
        return kl_div(x, ref_logits, token_weight=weight, reduction=reduction, **options)

    assert_finite_differences_agree(loss, logits.clone().requires_grad_())
    rows = weight * kl_div(logits, ref_logits, reduction="none", **options)
    divisor = {"none": 1, "sum": 1, "mean": 6, "token_mean": weight.sum()}[reduction]
    torch.testing.assert_close(loss(logits), rows if reduction == "none" else rows.sum() / divisor)


def test_when_there_are_no_rows(device):
    logits = torch.randn(0, 5, device=device)
    assert kl_div(logits, logits).isnan()
    assert kl_div(logits, logits, reduction="sum") == 0
    assert kl_div(logits, logits, reduction="none").shape == (0,)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_opcheck(direction, device):
    logits, ref_logits = torch.randn(2, 4, 33, device=device)
    weight = torch.rand(4, device=device)
    options = (direction, 0.3, "token_mean", 0.8)
    arguments = (logits.requires_grad_(), ref_logits, weight, *options)
    torch.library.opcheck(torch.ops.fluxcore.kl_div_fwd, arguments)
    loss, state, totals = torch.ops.fluxcore.kl_div_fwd(*arguments)
    backward_arguments = (torch.ones_like(loss), logits.detach(), ref_logits, weight, state, totals, *options)
    torch.library.opcheck(torch.ops.fluxcore.kl_div_bwd, backward_arguments)


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiles_without_a_graph_break(device):
    compiled = torch.compile(kl_div, fullgraph=True, dynamic=True)
    for rows, V in [(4, 33), (7, 60)]:
        logits, ref_logits = torch.randn(2, 2, rows, V, device=device)
        logits.requires_grad_()
        values = [function(logits, ref_logits) for function in (compiled, kl_div)]
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in values))
    torch.compiler.reset()


def test_nothing_waits_and_autocast_changes_nothing(device):
    implementations = {"fluxcore::kl_div_fwd": backends.forward, "fluxcore::kl_div_bwd": backends.backward}
    logits, ref_logits = torch.randn(2, 4, 33, device=device)
    logits.requires_grad_()
    for direction in DIRECTIONS:
        expected = kl_div(logits, ref_logits, direction=direction)
        with torch.autocast(device.type, dtype=torch.bfloat16), RecordSynchronisation(implementations) as record:
            loss = kl_div(logits, ref_logits, direction=direction)
            loss.backward()
        assert record.waits == []
        assert "fluxcore::kl_div_bwd" in record.called
        assert torch.equal(loss, expected)


def test_a_second_derivative_is_refused(device):
    logits, ref_logits = torch.randn(2, 2, 8, device=device)
    leaf = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(kl_div(leaf, ref_logits), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_forward_and_a_backward_pass_may_run_on_different_backends(direction, device):
    logits, ref_logits = torch.randn(2, 3, 90, device=device)
    leaves = [logits.clone().requires_grad_() for _ in range(3)]
    ours = [kl_div(leaf, ref_logits, direction=direction, temperature=0.7) for leaf in leaves[:2]]
    with fluxcore.backend("reference"):
        by_reference = kl_div(leaves[2], ref_logits, direction=direction, temperature=0.7)
        ours[1].backward()
    ours[0].backward()
    by_reference.backward()
    for leaf in leaves[1:]:
        torch.testing.assert_close(leaf.grad, leaves[0].grad)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`logits` must be float32, .*, got torch.int64", {"logits": torch.tensor([[1, 2, 3]] * 2)}),
        (TypeError, "`ref_logits` must have the dtype of `logits`", {"ref_logits": torch.ones(2, 3).double()}),
        (ValueError, r"`ref_logits` must have the shape .*\(2, 3\), got \(2, 4\)", {"ref_logits": torch.ones(2, 4)}),
        (ValueError, "`ref_logits` must not require grad", {"ref_logits": torch.ones(2, 3, requires_grad=True)}),
        (ValueError, "`direction` must be one of policy_ref, ref_policy, jsd, got 'up'", {"direction": "up"}),
        (ValueError, r"`beta` must be within \(0, 1\), got 1", {"beta": 1}),
        (ValueError, "`reduction` must be one of .*, got 'batchmean'", {"reduction": "batchmean"}),
        (ValueError, "`temperature` must be finite and > 0, got 0", {"temperature": 0}),
        (ValueError, r"`token_weight` must have the shape .*, \(2,\), got \(3,\)", {"token_weight": torch.ones(3)}),
    ],
)
def test_bad_input_is_named_with_the_way_out(error, message, arguments):
    arguments = {"logits": torch.randn(2, 3), "ref_logits": torch.randn(2, 3), **arguments}
    with fluxcore.backend("reference"), pytest.raises(error, match=message):
        kl_div(**arguments)
