"""How `cross_entropy` behaves as an op: registration, compile, autocast, passes over a graph, waiting, errors."""

import pytest
import torch
from support.devices import device_fixture
from support.synchronisation import RecordSynchronisation

import fluxcore
from fluxcore.ops import _cross_entropy_backends as backends
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.sharpness import Sharpness
from fluxcore.target_check import check_targets

device = device_fixture(backends.BACKENDS)
IMPLEMENTATIONS = {
    "fluxcore::cross_entropy_fwd": backends.forward,
    "fluxcore::cross_entropy_bwd": backends.backward,
    "fluxcore::scale_": backends.scale_,
}
OPTIONS = backends.Options("softmax", "mean", 5, 0.1, 0.01, "top_k_mass", 0.5, 3, 255, 0.9, 20.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ["classes", "probabilities", "stablemax", "none"])
def test_opcheck(variant, dtype, device):
    logits = torch.randn(4, 33, device=device).to(dtype).requires_grad_()
    target = torch.tensor(
        [0, 32, 1, 5], device=device
    )  # opcheck cannot compare NaN, so the ignored class is within range
    options = OPTIONS
    if variant == "probabilities":
        options = OPTIONS._replace(outputs=253)  # no logprob
        target = torch.rand(4, 33, device=device).to(dtype)
    if variant == "stablemax":
        options = backends.Options("stablemax", "sum", -100, 0.1, 0.0, "", 0.0, 0, 0, 1.0, 0.0)
    if variant == "none":
        options = OPTIONS._replace(reduction="none")
    ones = torch.ones(4, device=device)
    inputs = (target, torch.rand(33, device=device), ones, ones / 2)
    arguments = (logits, *inputs, *options, False)
    torch.library.opcheck(torch.ops.fluxcore.cross_entropy_fwd, arguments)
    _, _, argmax, state, top_index, totals, _ = torch.ops.fluxcore.cross_entropy_fwd(*arguments)
    upstream = ones if variant == "none" else ones[0]
    arguments = (upstream, logits.detach(), *inputs, argmax, state, top_index, totals, *options)
    torch.library.opcheck(torch.ops.fluxcore.cross_entropy_bwd, arguments)
    torch.library.opcheck(torch.ops.fluxcore.scale_, (logits.detach().clone(), ones[0] / 3))


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["none", "token_mean"])
def test_compiles_without_a_graph_break(reduction, device):
    penalty = Sharpness("neg_entropy", 0.1)

    def loss(logits, target):
        rows, stats = cross_entropy(
            logits,
            target,
            reduction=reduction,
            penalty=penalty,
            label_smoothing=0.1,
            return_stats=("entropy", "argmax"),
        )
        return rows, stats.entropy

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for rows, V in [(4, 33), (7, 60)]:
        logits = torch.randn(2, rows, V, device=device, requires_grad=True)
        target = torch.randint(V, (2, rows), device=device)
        target[0, 1:3] = -100  # what stands at ignored rows is 0 and not whatever was in memory
        logits.data[0, 1] = torch.nan
        (expected, _), (ours, entropy) = loss(logits, target), compiled(logits, target)
        torch.testing.assert_close(ours, expected)
        assert not entropy.requires_grad
        gradients = [torch.autograd.grad(value.sum(), logits)[0] for value in (ours, expected)]
        torch.testing.assert_close(*gradients)
    torch.compiler.reset()


def test_autocast_changes_nothing(device):
    logits = torch.randn(4, 50, device=device, requires_grad=True)
    target = torch.arange(4, device=device)
    expected = cross_entropy(logits, target)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ours = cross_entropy(logits, target)
        assert torch.equal(ours, expected)
        ours.backward()
    (gradient,) = torch.autograd.grad(expected, logits)
    assert torch.equal(logits.grad, gradient)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_second_derivative_is_refused(reduction, device):
    logits = torch.randn(2, 8, device=device, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 1], device=device), reduction=reduction).sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_graph_can_be_walked_again(dtype, device):
    logits = torch.randn(3, 20, device=device).to(dtype).requires_grad_()
    loss = cross_entropy(logits, torch.tensor([0, 1, 2], device=device))
    factors = (3.0, 0.0, 1.0, 1.0)
    walks = [torch.autograd.grad(factor * loss, logits, retain_graph=True)[0] for factor in factors]
    for factor, walk in zip(factors, walks, strict=True):
        torch.testing.assert_close(walk, factor * walks[-1])


def test_the_gradient_is_made_with_the_loss_where_that_is_right(device):
    def passes(dtype, reduction):
        logits = torch.randn(3, 20, device=device).to(dtype).requires_grad_()
        target = torch.tensor([0, 1, 2], device=device)
        with RecordSynchronisation(IMPLEMENTATIONS) as record:
            cross_entropy(logits, target, reduction=reduction).sum().backward()
        return [name.removeprefix("fluxcore::") for name in record.called if name.startswith("fluxcore::")]

    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert passes(dtype, "mean") == ["cross_entropy_fwd", "scale_"]
    assert passes(torch.float16, "mean") == ["cross_entropy_fwd", "cross_entropy_bwd"]
    assert passes(torch.float32, "none") == ["cross_entropy_fwd", "cross_entropy_bwd"]


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_backward_pass_makes_no_zeros_for_outputs_without_a_gradient(reduction, device):
    logits = torch.randn(5, 33, device=device, requires_grad=True)
    loss = cross_entropy(logits, torch.arange(5, device=device), reduction=reduction).sum()
    with RecordSynchronisation({}) as record:
        loss.backward()
    assert "fluxcore::cross_entropy_bwd" in record.called or "fluxcore::scale_" in record.called
    assert not [name for name in record.called if name in ("aten::zeros", "aten::zero_", "aten::new_zeros")]


def test_a_call_without_gradient_makes_none(device):
    logits = torch.randn(3, 20, device=device, requires_grad=True)
    with torch.no_grad():
        results = torch.ops.fluxcore.cross_entropy_fwd(
            logits, torch.tensor([0, 1, 2], device=device), None, None, None, *OPTIONS, False
        )
    assert results[-1].shape == (0, 20)


@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
def test_nothing_waits_for_the_device(probabilities, device):
    logits = torch.randn(5, 40, device=device, requires_grad=True)
    target = torch.tensor([0, 39, -100, 40, 7], device=device)
    if probabilities:
        target = torch.rand(5, 40, device=device)
    ones = torch.ones(5, device=device)
    options = {"penalty": Sharpness("top_k_mass", 0.1, k=2), "penalty_mask": ones.bool(), "token_weight": ones}
    for reduction in ("none", "mean", "sum", "token_mean"):
        with RecordSynchronisation(IMPLEMENTATIONS) as record:
            loss, _ = cross_entropy(
                logits, target, reduction=reduction, weight=torch.rand(40), return_stats=("entropy",), **options
            )
            loss.sum().backward()
        assert record.waits == []
        assert "fluxcore::cross_entropy_fwd" in record.called


def test_what_waits_is_found():
    with RecordSynchronisation({}) as record:
        values = torch.ones(3)
        values[values > 0].sum().item()
    assert record.waits == ["aten::index", "aten::_local_scalar_dense"]


@pytest.mark.parametrize("link", ["softmax", "stablemax"])
@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
def test_a_forward_and_a_backward_pass_may_run_on_different_backends(link, probabilities, device):
    logits = torch.randn(3, 90, device=device, dtype=torch.float16)  # its gradient is never made with the loss
    target = torch.rand(3, 90, device=device).half() if probabilities else torch.tensor([5, 0, 89], device=device)
    options = {"label_smoothing": 0.1, "link": link}
    if link == "softmax":
        options |= {"penalty": Sharpness("top_k_mass", 0.7, k=4), "lse_square_scale": 0.1}
    leaves = [logits.clone().requires_grad_() for _ in range(3)]
    ours = [cross_entropy(leaf, target, **options) for leaf in leaves[:2]]
    with fluxcore.backend("reference"):
        by_reference = cross_entropy(leaves[2], target, **options)
        ours[1].backward()
    ours[0].backward()
    by_reference.backward()
    for leaf in leaves[1:]:
        torch.testing.assert_close(leaf.grad, leaves[0].grad)


def test_targets_can_be_checked(device, monkeypatch):
    logits = torch.randn(2, 3, 7, device=device)
    target = torch.tensor([[1, -100, 7], [0, -1, 6]], device=device)
    message = r"`target` must be within \[0, 7\), or `ignore_index` \(-100\), got 7 at row 2, and 1 more"
    with check_targets(), pytest.raises(ValueError, match=message):
        cross_entropy(logits, target)
    monkeypatch.setenv("FLUXCORE_CHECK_TARGETS", "1")
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, target)
    with check_targets(False):
        assert cross_entropy(logits, target).isnan()
    assert cross_entropy(logits, target.clamp(0, 6)).isfinite()


def test_a_backend_that_lacks_the_op_says_so(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", ("reference",))
    with (
        fluxcore.backend("cpp"),
        pytest.raises(ValueError, match=r'backend `cpp` has no `cross_entropy`, only reference has\n\n.*"reference"'),
    ):
        cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]))


PROBABILITIES = torch.rand(2, 3)
GRAD = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`logits` must be float32, .*, got torch.int64", {"logits": torch.tensor([[1, 2, 3]] * 2)}),
        (TypeError, "`logits` must be a tensor, got list", {"logits": [[1.0, 2.0, 3.0]] * 2}),
        (
            TypeError,
            r"`logits` must be dense, got torch.sparse_coo\n\n.*to_dense",
            {"logits": torch.eye(3).to_sparse()},
        ),
        (TypeError, "`target` must be a tensor, got list", {"target": [0, 1]}),
        (TypeError, "`target` must be dense, got torch.sparse_coo", {"target": torch.tensor([0, 1]).to_sparse()}),
        (TypeError, "`weight` must be dense, got torch.sparse_coo", {"weight": torch.ones(3).to_sparse()}),
        (ValueError, "`logits` must have a last dim of classes, got a scalar", {"logits": torch.tensor(1.0)}),
        (ValueError, r"`logits` must have at least one class, got shape \(2, 0\)", {"logits": torch.ones(2, 0)}),
        (TypeError, "`target` must hold integer classes, got torch.bool", {"target": torch.tensor([True, False])}),
        (ValueError, r"`target` must .* without the classes, \(2,\), got \(3,\)", {"target": torch.tensor([0, 1, 2])}),
        (ValueError, r"`target` must have the shape of `logits`, \(2, 3\), .*, got \(2,\)", {"target": torch.ones(2)}),
        (
            TypeError,
            "`target` must have the dtype of `logits`, .*float32, .*float64",
            {"target": PROBABILITIES.double()},
        ),
        (
            ValueError,
            "`target` must be on the device of `logits`, cpu",
            {"target": torch.ones(2, device="meta").long()},
        ),
        (ValueError, "`target` must not require grad", {"target": PROBABILITIES.clone().requires_grad_()}),
        (ValueError, "`ignore_index` is of no use .*, got 1", {"target": PROBABILITIES, "ignore_index": 1}),
        (ValueError, "`return_stats` can have logprob", {"target": PROBABILITIES, "return_stats": ("logprob",)}),
        (ValueError, r"`weight` must have one element a class, 3, got \(2,\)", {"weight": torch.ones(2)}),
        (TypeError, "`weight` must be floating point, got torch.int64", {"weight": torch.tensor([1, 2, 3])}),
        (ValueError, r"`token_weight` must have the shape .*, \(2,\), got \(1,\)", {"token_weight": torch.ones(1)}),
        (ValueError, "`token_weight` must not require grad.*\n\n.*detach", {"token_weight": GRAD}),
        (
            ValueError,
            r"`penalty_mask` must have the shape .* got \(3,\)",
            {"penalty_mask": torch.ones(3), "penalty": Sharpness("neg_entropy", 1)},
        ),
        (ValueError, "`penalty_mask` is only of use with a `penalty`.*\n\n.*coef 0", {"penalty_mask": torch.ones(2)}),
        (ValueError, "`reduction` must be one of none, mean, sum, token_mean, got 'avg'", {"reduction": "avg"}),
        (ValueError, "`link` must be one of softmax, stablemax, got 'logit'", {"link": "logit"}),
        (ValueError, r"`label_smoothing` must be within \[0, 1\], got 1.5", {"label_smoothing": 1.5}),
        (ValueError, "`lse_square_scale` must be finite and >= 0, got -1", {"lse_square_scale": -1.0}),
        (ValueError, "`temperature` must be finite and > 0, got -2", {"temperature": -2}),
        (ValueError, "`softcap` must be finite and > 0, .* got 0", {"softcap": 0}),
        (TypeError, "`penalty` must be a Sharpness, or None for none, got 'neg_entropy'", {"penalty": "neg_entropy"}),
        (ValueError, r"`penalty.k` must be within .*, got 4 for V = 3", {"penalty": Sharpness("top_k_mass", 1, k=4)}),
        (ValueError, "`return_stats` must be among .*, got 'entropi'", {"return_stats": ("entropi",)}),
        (ValueError, "`return_stats` must name at least one", {"return_stats": ()}),
        (ValueError, "`return_stats` can have top_k_mass only with a penalty", {"return_stats": ("top_k_mass",)}),
        (
            ValueError,
            '`link` = "stablemax" goes without `lse_square_scale`, `penalty`, `return_stats`, `temperature`, `softcap`',
            {
                "link": "stablemax",
                "lse_square_scale": 0.1,
                "penalty": Sharpness("neg_entropy", 1.0),
                "return_stats": ("entropy",),
                "temperature": 2.0,
                "softcap": 5.0,
            },
        ),
    ],
)
def test_bad_input_is_named_with_the_way_out(error, message, arguments):
    arguments = {"logits": torch.randn(2, 3), "target": torch.tensor([0, 2]), **arguments}
    with fluxcore.backend("reference"), pytest.raises(error, match=message):
        cross_entropy(**arguments)
