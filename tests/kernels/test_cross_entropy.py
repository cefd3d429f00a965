"""The regimes of the cross entropy kernels, and the gradient that is made with the loss or scaled after it."""

import pytest
import torch
from fluxcore.kernels.class_weights import launch_shift_weights
from fluxcore.kernels.cross_entropy import Call, threads_to_read_twice
from fluxcore.kernels.row_gradient import MAX_SPLITS
from fluxcore.kernels.rows import row_layout
from fluxcore.kernels.scale import launch_scale_

import fluxcore
from fluxcore.ops import _cross_entropy_backends as backends

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = backends.Options("softmax", "mean", -100, 0.1, 0.01, "neg_entropy", 0.5, 0, 0, 1.0, 0.0)


def inputs(shape, probabilities=False):
    logits = torch.randn(shape, device=DEVICE)
    target = torch.randint(shape[1], shape[:1], device=DEVICE)
    target[0] = -100
    return logits, torch.rand(shape, device=DEVICE) if probabilities else target, None, None, None


@pytest.mark.parametrize("variant", ["classes", "probabilities", "stablemax", "top k"])
@pytest.mark.parametrize(("shape", "regime"), [((5, 300), "rows"), ((9, 3000), "loop"), ((2, 8193), "split")], ids=str)
def test_the_gradient_made_with_the_loss_is_that_of_the_backward_pass(shape, regime, variant):
    options = OPTIONS
    if variant == "stablemax":
        options = OPTIONS._replace(link="stablemax", lse_square_scale=0.0, penalty="", penalty_coef=0.0)
    if variant == "top k":
        options = OPTIONS._replace(penalty="top_k_mass", top_k=3)
    tensors = inputs(shape, probabilities=variant == "probabilities")
    if not torch.cuda.is_available():
        assert Call(tensors, *options).plan(MAX_SPLITS).regime == regime
    with fluxcore.backend("triton"):
        loss, _, argmax, state, top_index, totals, gradient = backends.forward(*tensors, *options, True)
        saved = (argmax, state, top_index, totals)
        again = backends.backward(torch.ones_like(loss), *tensors, *saved, *options)
        without, *_ = backends.forward(*tensors, *options, False)
    assert gradient.isfinite().all()
    assert torch.equal(gradient, again)
    assert torch.equal(loss, without)


@pytest.mark.parametrize("shape", [(5, 300), (2, 8193)], ids=str)
def test_rows_of_a_larger_whole_use_the_divisors_given(shape):
    tensors = inputs(shape)
    options = OPTIONS._replace(reduction="given")
    with fluxcore.backend("triton"):
        rows, *_ = backends.forward(*tensors, *OPTIONS._replace(reduction="none"), False)
        results = backends.empty_results(tensors[0], options, True)
        results.totals.copy_(torch.tensor([8.0, 8.0, 8.0, shape[1]]))
        backends.forward(*tensors, *options, True, results=results)
    torch.testing.assert_close(results.loss, rows / 8)
    assert results.totals[0] == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(9, 65), (9, 4099), (2, 8193)], ids=str)
def test_class_weights_meet_their_classes_wherever_a_row_begins(shape, dtype):
    """Rows of odd length begin at every place in a vector, so that they read every shifted copy."""
    logits = torch.randn(shape, device=DEVICE).to(dtype)
    target, weight = torch.randint(shape[1], shape[:1], device=DEVICE), torch.rand(shape[1], device=DEVICE)
    options = {"weight": weight, "label_smoothing": 0.3}
    leaves = [tensor.detach().requires_grad_() for tensor in (logits, logits.double())]
    with fluxcore.backend("triton"):
        loss = fluxcore.cross_entropy(leaves[0], target, **options)
    exact = torch.nn.functional.cross_entropy(leaves[1], target, weight.double(), label_smoothing=0.3)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    ours, theirs = (torch.autograd.grad(value, leaf)[0] for value, leaf in zip((loss, exact), leaves, strict=True))
    torch.testing.assert_close(ours, theirs.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=1e-9)


def test_shifted_weights_begin_at_each_place_in_a_vector():
    weight = torch.arange(1.0, 12, device=DEVICE)
    logits = torch.empty(3, 11, dtype=torch.float32, device=DEVICE)
    shifted = launch_shift_weights(weight, row_layout(logits))
    assert shifted.tolist() == [[*range(1 + shift, 12), *[0] * (1 + shift)] for shift in range(4)]
    assert launch_shift_weights(weight[:8], row_layout(logits[:, :8].contiguous())).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 40000])
def test_a_gradient_is_scaled_in_place(size, dtype):
    gradient = torch.randn(size, device=DEVICE).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for scale in (1.0, -0.3, 0.0):
        expected = (gradient.to(wide) * scale).to(dtype)
        if scale == 0:
            gradient[:3] = torch.nan
        launch_scale_(gradient, torch.tensor(scale, dtype=wide, device=DEVICE))
        assert torch.equal(gradient, expected)


def test_a_program_that_reads_long_rows_twice_has_more_threads():
    def threads(V, dtype, crowded=False):
        return threads_to_read_twice(torch.empty(1, V, dtype=dtype), crowded)

    assert threads(4096, torch.bfloat16) == 128
    assert threads(32768, torch.bfloat16) == 256
    assert threads(50257, torch.float32) == 512
    assert threads(262144, torch.float32) == 512
    assert threads(262144, torch.float32, crowded=True) == 256
