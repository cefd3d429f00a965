"""`softmax_stats` against eager PyTorch, torch.compile and TRL; floor: the rate of `x.sum()`, on a GPU of a copy."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import fluxcore
from benchmarks.harness import Answer, Case, Floor
from benchmarks.ops.rivals import compiled, from_package

ALL = ("lse", "logprob", "entropy", "varentropy", "max_prob", "one_minus_max_prob")
TOP_K = 8


def cases(device: torch.device) -> list[Case]:
    """Shapes that fit the device; all statistics, the pair that policies need, top-k, and the gradient."""
    if device.type == "cuda":
        shapes = [((16384, 128256), torch.bfloat16), ((8192, 50257), torch.bfloat16), ((65536, 256), torch.bfloat16)]
    else:
        shapes = [((1024, 50257), torch.float32), ((512, 128256), torch.float32), ((1024, 50257), torch.bfloat16)]
    found = []
    for shape, dtype in shapes:
        found += [
            forward_case("all", ALL, shape, dtype, device),
            forward_case("lse_entropy", ("lse", "entropy"), shape, dtype, device),
            forward_case("top8", ("top_k_mass",), shape, dtype, device),
            backward_case(shape, dtype),
        ]
    return found


def forward_case(
    name: str, outputs: tuple[str, ...], shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Case:
    N, V = shape
    contenders = {
        "fluxcore": lambda: partial(ours, outputs=outputs),
        "eager": lambda: partial(naive, outputs=outputs),
        "torch.compile": lambda: compiled(partial(naive, outputs=outputs)),
    }
    if name == "lse_entropy":
        contenders["trl entropy_from_logits"] = trl_entropy
    return Case(
        name=f"softmax_stats/{name}",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders=contenders,
        truth=lambda x, target: naive(x.double(), target, outputs=outputs),
        # Rivals that compute in the half type itself would fail a float32 tolerance by far.
        tolerance=1e-5 if dtype == torch.float32 else 5e-2,
        bytes_moved=N * V * dtype.itemsize,
        floor=Floor.COPY if device.type == "cuda" else Floor.SUM,
    )


def backward_case(shape: tuple[int, int], dtype: torch.dtype) -> Case:
    """The gradient of a loss of all statistics: the backward pass alone, on a graph made beforehand."""
    N, V = shape
    outputs = ("logprob", "entropy", "varentropy", "one_minus_max_prob")
    return Case(
        name="softmax_stats/backward",
        shape=shape,
        dtype=dtype,
        inputs=partial(make_inputs, shape, dtype),
        contenders={
            "fluxcore": lambda: Backward(partial(ours, outputs=outputs)),
            "eager": lambda: Backward(partial(naive, outputs=outputs)),
            "torch.compile": lambda: Backward(compiled(partial(naive, outputs=outputs))),
        },
        truth=lambda x, target: Backward(partial(naive, outputs=outputs))(x.double(), target),
        tolerance=1e-5 if dtype == torch.float32 else 5e-2,
        bytes_moved=2 * N * V * dtype.itemsize,
    )


class Backward:
    """Times the backward pass only: the graph of the last inputs is kept and gone through again."""

    def __init__(self, forward: Callable[..., Answer]) -> None:
        self.forward = forward
        self.seen: Tensor | None = None

    def __call__(self, x: Tensor, target: Tensor) -> Answer:
        """The gradient; the first call with other inputs also goes forward."""
        if self.seen is not x:
            self.seen = x
            self.leaf = x.detach().requires_grad_()
            self.loss = sum(value.sum() for value in self.forward(self.leaf, target).values())
        (grad,) = torch.autograd.grad(self.loss, self.leaf, retain_graph=True)
        return {"grad": grad}


def make_inputs(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits with the spread of a trained model's, and targets."""
    generator = torch.Generator(device).manual_seed(0)
    x = 3 * torch.randn(shape, generator=generator, device=device)
    return x.to(dtype), torch.randint(shape[1], shape[:1], generator=generator, device=device)


def ours(x: Tensor, target: Tensor, outputs: tuple[str, ...]) -> Answer:
    top_k = TOP_K if "top_k_mass" in outputs else None
    stats = fluxcore.softmax_stats(x, target, outputs=outputs, top_k=top_k)
    return {name: getattr(stats, name) for name in outputs}


def naive(x: Tensor, target: Tensor, outputs: tuple[str, ...]) -> Answer:
    """What a careful user writes, in float32 for half types, and only for the outputs asked for."""
    x = x if x.dtype == torch.float64 else x.float()
    logp = x.log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1) if {"entropy", "varentropy"} & set(outputs) else None
    answer = {}
    for name in outputs:
        match name:
            case "lse":
                # From the log-probabilities, which are there already: x - logp is the same in every column.
                answer[name] = x[..., 0] - logp[..., 0]
            case "logprob":
                answer[name] = logp.gather(-1, target.unsqueeze(-1)).squeeze(-1)
            case "entropy":
                answer[name] = entropy
            case "varentropy":
                answer[name] = (p * (logp + entropy.unsqueeze(-1)).square()).sum(-1)
            case "max_prob":
                answer[name] = p.amax(-1)
            case "one_minus_max_prob":
                answer[name] = 1 - p.amax(-1)
            case _:
                answer[name] = p.topk(TOP_K).values.sum(-1)
    return answer


def trl_entropy() -> Callable[..., Answer]:
    entropy_from_logits = from_package("trl", "trl.trainer.utils", "entropy_from_logits")
    return lambda x, _target: {"entropy": entropy_from_logits(x)}


def bench_softmax_stats(measure: Callable[[], None]) -> None:
    measure()
