"""`prune_regrow_` in Triton chooses what C++ chooses; small, for the interpreter is slow."""

import pytest
import torch

import fluxcore

# In `a` threads make four random numbers at a time, in `b`, a part that begins anywhere, one.
SIZES = {"a": (37, 61), "b": (1201,), "c": (0,)}
OPTIONS = {"drop_fraction": 0.4, "regrow_fraction": 0.5, "seed": 2, "step": 7, "offsets": {"b": 77}}
TRITON = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize(
    ("dtype", "regrow"),
    [(torch.float32, "noise"), (torch.float32, "gradient"), (torch.bfloat16, "random"), (torch.float16, "gradient")],
    ids=str,
)
def test_triton_ends_as_cpp(dtype, regrow, scope):
    results = []
    for backend, device in (("cpp", torch.device("cpu")), ("triton", TRITON)):
        torch.manual_seed(0)
        weights = {name: torch.randn(size).to(dtype) for name, size in SIZES.items()}
        masks = {name: (torch.rand(size) < 0.6).to(device) for name, size in SIZES.items()}
        gradients = [torch.randn(size).to(device, dtype) for size in SIZES.values()]
        weights = {name: weight.to(device) for name, weight in weights.items()}
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient
        with fluxcore.backend(backend):
            report = fluxcore.prune_regrow_(weights, regrow=regrow, noise_std=0.1, masks=masks, scope=scope, **OPTIONS)
        results.append((weights, masks, report))
    (ours, bits, report), (theirs, others, found) = results
    for name in SIZES:
        assert torch.equal(bits[name], others[name].cpu())
        rtol = 4 * torch.finfo(torch.float32).eps if dtype == torch.float32 else torch.finfo(dtype).eps
        torch.testing.assert_close(theirs[name].cpu(), ours[name], rtol=rtol, atol=0)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(report[1:4], found[1:4], strict=True))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(report.cuts, found.cuts, strict=True))
