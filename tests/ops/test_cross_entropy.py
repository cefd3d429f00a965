"""Loss and gradient of `cross_entropy` on every backend that has it, against the float64 definition."""

import pytest
import torch
from support import naive
from support.devices import device_fixture
from support.finite_differences import assert_finite_differences_agree
from support.numerics import assert_no_less_accurate, assert_relatively_accurate

from fluxcore import reference
from fluxcore.ops._cross_entropy_backends import BACKENDS
from fluxcore.ops.cross_entropy import cross_entropy
from fluxcore.sharpness import Sharpness

device = device_fixture(BACKENDS)
F = torch.nn.functional
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
PENALTIES = [
    Sharpness("non_max_sum", 0.7),
    Sharpness("neg_entropy", -0.3),
    Sharpness("neg_max_prob", 1.5),
    Sharpness("top_k_mass", 0.9, k=3),
]


def rows_and_gradient(function, logits, target, **options):
    """Loss of each row, and the gradient of a random combination of them, in the dtype of `logits`."""
    leaf = logits.detach().requires_grad_()
    loss = function(leaf, target, **options)
    upstream = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1)).to(loss)
    (gradient,) = torch.autograd.grad(loss, leaf, upstream)
    return loss.detach(), gradient


def assert_accurate(logits, target, **options):
    ours, our_gradient = rows_and_gradient(cross_entropy, logits, target, reduction="none", **options)
    than, than_gradient = rows_and_gradient(naive.cross_entropy, logits, target, **options)
    exact_target = target.double() if target.is_floating_point() else target
    exact, exact_gradient = rows_and_gradient(
        reference.cross_entropy, logits.double(), exact_target, reduction="none", **options
    )
    assert ours.dtype == than.dtype
    assert our_gradient.dtype == logits.dtype
    assert_no_less_accurate(ours, than=than, exact=exact)
    assert_no_less_accurate(our_gradient, than=than_gradient, exact=exact_gradient)


def example(shape, dtype, device, *, probabilities=False, scale=4):
    logits = (scale * torch.randn(shape, device=device)).to(dtype)
    if probabilities:
        return logits, torch.randn(shape, device=device).softmax(-1).to(dtype)
    target = torch.randint(shape[-1], shape[:-1], device=device)
    target[..., 0] = logits[..., 0, :].argmax(-1)  # a target that is the argmax takes a branch of its own
    return logits, target


@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 2), (40, 5), (2, 3, 65), (5, 96), (9, 257), (3, 2500), (2, 8193)], ids=str
)
@pytest.mark.parametrize("link", ["softmax", "stablemax"])
def test_plain(link, shape, dtype, probabilities, device):
    logits, target = example(shape, dtype, device, probabilities=probabilities)
    assert_accurate(logits, target, link=link)


@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("link", ["softmax", "stablemax"])
def test_label_smoothing_and_class_weights(link, dtype, probabilities, device):
    for V in (6, 300, 2100):
        logits, target = example((8, V), dtype, device, probabilities=probabilities)
        weight = torch.rand(V, device=device)
        assert_accurate(logits, target, link=link, label_smoothing=0.1)
        assert_accurate(logits, target, link=link, weight=weight)
        assert_accurate(logits, target, link=link, label_smoothing=0.3, weight=weight)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.kind.value)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_penalties_with_everything_else(penalty, dtype, device):
    for V in (7, 257, 3000):
        logits, target = example((6, V), dtype, device)
        assert_accurate(logits, target, penalty=penalty)
        options = {"lse_square_scale": 1e-2, "label_smoothing": 0.1, "temperature": 1.7, "softcap": 8.0}
        assert_accurate(logits, target, penalty=penalty, weight=torch.rand(V, device=device), **options)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"softcap": 30.0}, {"softcap": 0.1, "temperature": 0.01}], ids=str
)
def test_softcap_comes_before_temperature(options, device):
    logits, target = example((9, 131), torch.float32, device)
    assert_accurate(logits, target, **options)


@pytest.mark.parametrize("offset", [0.0, 100.0, -100.0, 1e4, -1e4])
def test_a_common_offset_costs_no_accuracy(offset, device):
    # Far below 0: no maximum that starts at 0, and no padding of the vocabulary that counts as logits of 0.
    for V in (5, 777, 4097):
        logits, target = example((5, V), torch.float32, device, scale=1)
        assert_accurate(logits + offset, target)


@pytest.mark.parametrize("margin", [0.0, 5.0, 15.0, 30.0, 45.0, 60.0])
@pytest.mark.parametrize("V", [2, 257, 5000])
def test_a_sure_row_keeps_the_digits_of_its_loss_and_gradient(margin, V, device):
    logits = torch.rand(6, V, device=device)
    sure = torch.tensor([0, 1, V // 2, V - 1, V - 2, V // 3], device=device)
    logits.scatter_(-1, sure[:, None], margin)
    one_hot = F.one_hot(sure, V).float()
    for target, penalty in [(sure, None), (one_hot, None), (sure, PENALTIES[0]), (sure, Sharpness("neg_entropy", 0.3))]:
        exact_target = target.double() if target.is_floating_point() else target
        ours = cross_entropy(logits, target, reduction="none", penalty=penalty)
        exact = reference.cross_entropy(logits.double(), exact_target, reduction="none", penalty=penalty)
        assert_relatively_accurate(ours, exact=exact, margin=margin)
    leaf, exact_leaf = logits.clone().requires_grad_(), logits.double().requires_grad_()
    cross_entropy(leaf, sure, reduction="sum").backward()
    reference.cross_entropy(exact_leaf, sure, reduction="sum").backward()
    assert (leaf.grad.gather(-1, sure[:, None]) < 0).all()
    assert_relatively_accurate(leaf.grad, exact=exact_leaf.grad, margin=2 * margin)


@pytest.mark.parametrize("probabilities", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("size", [1e1, 1e5, 1e10])
def test_stablemax_of_a_sure_row_keeps_its_digits(size, probabilities, device):
    logits = torch.randn(4, 700, device=device)
    sure = torch.tensor([0, 1, 350, 699], device=device)
    logits.scatter_(-1, sure[:, None], size)
    target = F.one_hot(sure, 700).float() if probabilities else sure
    ours, gradient = rows_and_gradient(cross_entropy, logits, target, reduction="none", link="stablemax")
    exact_target = target.double() if probabilities else target
    exact, exact_gradient = rows_and_gradient(
        reference.cross_entropy, logits.double(), exact_target, reduction="none", link="stablemax"
    )
    assert (ours > 0).all()
    assert_relatively_accurate(ours, exact=exact, margin=0)
    at_target, exact_at_target = gradient.gather(-1, sure[:, None]), exact_gradient.gather(-1, sure[:, None])
    assert_relatively_accurate(at_target, exact=exact_at_target, margin=0)


@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=lambda penalty: penalty.kind.value if penalty else "none")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "token_mean"])
def test_finite_differences_agree(penalty, reduction, device):
    logits = torch.randn(2, 3, 6, device=device, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0, 5, 2], [-100, 3, 1]], device=device)
    options = {
        "weight": torch.rand(6, device=device, dtype=torch.float64),
        "token_weight": torch.tensor([[0.5, 2, 0], [1, -1, 3]], device=device),
    }
    if penalty is not None:
        options["penalty_mask"] = torch.tensor([[1, 0, 1], [1, 1, 1]], device=device).bool()
    options |= {"penalty": penalty, "reduction": reduction, "label_smoothing": 0.2, "lse_square_scale": 0.1}

    def loss(x):
        return cross_entropy(x, target, softcap=9.0, temperature=0.8, **options)

    assert_finite_differences_agree(loss, logits)


@pytest.mark.parametrize("link", ["softmax", "stablemax"])
def test_finite_differences_agree_for_probabilities(link, device):
    logits = 2 * torch.randn(4, 6, device=device, dtype=torch.float64)
    target = torch.rand(4, 6, device=device, dtype=torch.float64)
    weight = torch.rand(6, device=device, dtype=torch.float64)

    def loss(x):
        return cross_entropy(x, target, label_smoothing=0.2, weight=weight, link=link)

    assert_finite_differences_agree(loss, logits.requires_grad_())


def test_torchs_own_samples(device):
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (info for info in op_db if info.name == "nn.functional.cross_entropy")
    samples = list(info.sample_inputs(device, torch.float64, requires_grad=True))
    assert len(samples) > 20
    for sample in samples:
        target = sample.args[0].detach()
        expected = F.cross_entropy(sample.input, target, **sample.kwargs)
        last = target.movedim(1, -1) if target.is_floating_point() else target
        ours = cross_entropy(sample.input.movedim(1, -1), last, **sample.kwargs)
        torch.testing.assert_close(ours, expected)
        upstream = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(ours, sample.input, upstream)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, sample.input, upstream)[0])
