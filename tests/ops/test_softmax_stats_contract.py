"""How `softmax_stats` behaves as an op: registration, compile, autocast, errors."""

import pytest
import torch

import fluxcore
from fluxcore import SoftmaxStats, softmax_stats

ALL = SoftmaxStats._fields


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, device):
    logits = torch.randn(4, 33, device=device).to(dtype).requires_grad_()
    target = torch.arange(4, device=device)
    options = (127, 3, 0.9, 20.0)
    torch.library.opcheck(torch.ops.fluxcore.softmax_stats_fwd, (logits, target, *options))
    _, argmax, state, top_index = torch.ops.fluxcore.softmax_stats_fwd(logits.detach(), target, *options)
    grads = torch.randn(7, 4, device=device)
    arguments = (grads, logits.detach(), target, argmax, state, top_index, *options)
    torch.library.opcheck(torch.ops.fluxcore.softmax_stats_bwd, arguments)


# Third parties warn while Inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiles_without_a_graph_break(device):
    def loss(logits, target):
        stats = softmax_stats(logits, target, outputs=ALL, top_k=2, temperature=0.8, softcap=15.0)
        return sum(getattr(stats, name).sum() for name in ALL[:-1]) + stats.argmax.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for rows, V in [(4, 33), (7, 60)]:
        logits = torch.randn(2, rows, V, device=device, requires_grad=True)
        target = torch.randint(V, (2, rows), device=device)
        expected, ours = loss(logits, target), compiled(logits, target)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(expected, logits))
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_function_obeys_the_backend_of_the_call(monkeypatch):
    from fluxcore.ops import _softmax_stats_backends as backends

    compiled = torch.compile(lambda x: softmax_stats(x, outputs=("entropy",)).entropy, fullgraph=True)
    logits = torch.randn(3, 20)
    compiled(logits)
    calls = []
    real = backends._reference_forward
    monkeypatch.setattr(backends, "_reference_forward", lambda *args: calls.append(1) or real(*args))
    with fluxcore.backend("reference"):
        compiled(logits)
    assert calls == [1]
    torch.compiler.reset()


def test_autocast_changes_nothing(device):
    logits = torch.randn(4, 50, device=device, requires_grad=True)
    expected = softmax_stats(logits, outputs=("entropy",)).entropy
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ours = softmax_stats(logits, outputs=("entropy",)).entropy
        assert torch.equal(ours, expected)
        ours.sum().backward()
    (grad,) = torch.autograd.grad(expected.sum(), logits)
    assert torch.equal(logits.grad, grad)


def test_a_second_derivative_is_refused(device):
    logits = torch.randn(2, 8, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(softmax_stats(logits, outputs=("entropy",)).entropy.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        grad.square().sum().backward()


def test_a_forward_and_a_backward_pass_may_run_on_different_backends(device):
    outputs = ALL[:-1]
    logits = torch.randn(3, 90, device=device)
    target = torch.tensor([5, 0, 89], device=device)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    results = [softmax_stats(leaf, target, outputs=outputs, top_k=4) for leaf in leaves]
    losses = [sum(getattr(stats, name).sum() * (i + 1) for i, name in enumerate(outputs)) for stats in results]
    losses[0].backward()
    with fluxcore.backend("reference"):
        losses[1].backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize(
    ("error", "message", "kwargs"),
    [
        (TypeError, "`logits` must be float32, bfloat16, float16 or float64, got torch.int64", {"logits": [[1, 2]]}),
        (ValueError, "`logits` must have a last dim of classes, got a scalar", {"logits": 1.0}),
        (ValueError, r"`logits` must have at least one class, got shape \(2, 0\)", {"logits": [[], []]}),
        (ValueError, "`outputs` must be among .*, got 'entropi'", {"outputs": ("entropi",)}),
        (ValueError, "`outputs` must name at least one", {"outputs": ()}),
        (TypeError, r"the string 'entropy'\n\nWrite \('entropy',\)", {"outputs": "entropy"}),
        (ValueError, "`target` must be given for the output logprob", {"outputs": ("logprob",)}),
        (
            TypeError,
            "`target` must hold integer classes, got torch.float32",
            {"outputs": ("logprob",), "target": [0.0]},
        ),
        (ValueError, r"without the classes, \(1,\), got \(2,\)", {"outputs": ("logprob",), "target": [0, 1]}),
        (ValueError, "`top_k` must be given", {"outputs": ("top_k_mass",)}),
        (ValueError, r"within \[1, min\(V, 64\)\], got 4 for V = 3", {"outputs": ("top_k_mass",), "top_k": 4}),
        (ValueError, r"within \[1, min\(V, 64\)\], got 0", {"outputs": ("top_k_mass",), "top_k": 0}),
        (ValueError, "`top_k` is only of use for the output top_k_mass, got 2", {"top_k": 2}),
        (ValueError, "`temperature` must be finite and > 0, got 0", {"temperature": 0}),
        (ValueError, "`temperature` must be finite and > 0, got nan", {"temperature": float("nan")}),
        (ValueError, "`softcap` must be finite and > 0, or None for none, got -1", {"softcap": -1}),
    ],
)
def test_bad_input_is_named_with_the_way_out(error, message, kwargs):
    logits = torch.tensor(kwargs.pop("logits", [[0.0, 1.0, 2.0]]))
    target = kwargs.pop("target", None)
    arguments = {"outputs": ("lse",), **kwargs}
    with pytest.raises(error, match=message):
        softmax_stats(logits, None if target is None else torch.tensor(target), **arguments)
