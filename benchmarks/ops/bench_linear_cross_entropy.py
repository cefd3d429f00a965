"""`linear_cross_entropy` and its gradients by hidden states and weight, at the heads of real models, against
PyTorch's linear then cross entropy, eager and compiled, its own chunked op, Liger-Kernel and cut-cross-entropy. Beside
our own times stand those that `fluxcore.explain` expects."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Answer, Case, Floor
from benchmarks.ops import rivals
from fluxcore import LinearOptions, explain, linear_cross_entropy

F = torch.nn.functional
HEADS = {"gpt2": (768, 50257), "smollm2_135m": (576, 49152), "llama3_8b": (4096, 128256)}
"""D and V."""
ROWS = {
    "cpu": {"gpt2": 4096, "smollm2_135m": 1024, "llama3_8b": 64},
    "cuda": dict.fromkeys(HEADS, 8192),
}
"""N; fewer on a CPU, where a product with the largest head takes seconds for each thousand rows."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
FEW_ROWS = LinearOptions(rows=32)
Head = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cases(device: torch.device) -> list[Case]:
    """Every head; on a GPU in half precision too."""
    return [make_case(name, dtype, device) for name in HEADS for dtype in DTYPES[device.type]]


def make_case(name: str, dtype: torch.dtype, device: torch.device) -> Case:
    (D, V), N = HEADS[name], ROWS[device.type][name]
    head = make_head(D, V, dtype)
    step = partial(training_step, head)
    traced = training_step(lambda hidden: hidden.new_empty(V, D), by_logits)
    return Case(
        name=f"linear_cross_entropy/{name}_forward_backward",
        shape=(N, D, V),
        dtype=dtype,
        inputs=partial(make_inputs, N, D, V, dtype),
        contenders={
            "fluxcore": lambda: step(linear_cross_entropy),
            "fluxcore, 32 rows a chunk": lambda: step(partial(linear_cross_entropy, options=FEW_ROWS)),
            "eager": lambda: step(by_logits),
            "torch.compile": lambda: step(rivals.compiled(by_logits)),
            "torch, chunked": lambda: step(
                partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())
            ),
            "liger": lambda: step(liger(device)),
            "cut-cross-entropy": lambda: step(cut_cross_entropy(device)),
        },
        truth=lambda hidden, target: step(by_logits)(hidden.double(), target),
        tolerance=10 * rivals.tolerance(dtype) if dtype == torch.float32 else rivals.tolerance(dtype),  # sums over V
        # Input, weight and their gradients: what any way of doing it moves.
        bytes_moved=2 * (N * D + V * D) * dtype.itemsize,
        flop=6 * N * D * V,
        floor=Floor.COPY,
        memory_like={"eager": traced, "torch.compile": traced},
        input_bytes=(N * D + V * D) * 4,
        expected_ms={
            "fluxcore": partial(expected_ms, N, D, V, dtype, device, None),
            "fluxcore, 32 rows a chunk": partial(expected_ms, N, D, V, dtype, device, FEW_ROWS),
        },
    )


def expected_ms(
    N: int, D: int, V: int, dtype: torch.dtype, device: torch.device, options: LinearOptions | None
) -> float:
    """By the cost model, from the rates of copies and matrix products measured now."""
    shapes = {"input": (N, D), "linear_weight": (V, D)}
    schedule = explain("linear_cross_entropy", shapes, dtype=dtype, device=device, measure=True, options=options)
    assert schedule.forward_ms is not None
    assert schedule.backward_ms is not None
    return schedule.forward_ms + schedule.backward_ms


def make_inputs(N: int, D: int, V: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hidden states of unit size, and targets."""
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn((N, D), generator=generator, device=device)
    return hidden.to(dtype), torch.randint(V, (N,), generator=generator, device=device)


def make_head(D: int, V: int, dtype: torch.dtype) -> Head:
    """The weight [V, D] in the dtype of hidden states, values of the case's; logits as spread as a trained model's."""
    kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def weight(hidden: Tensor) -> Tensor:
        key = (hidden.device, hidden.dtype)
        if key not in kept:
            kept.clear()
            generator = torch.Generator(hidden.device).manual_seed(1)
            made = torch.randn((V, D), generator=generator, device=hidden.device).mul_(3 / D**0.5)
            kept[key] = made.to(dtype).to(hidden.dtype)  # the truth is of the weight that contenders have
        return kept[key]

    return weight


def training_step(head: Head, loss: Loss) -> Callable[..., Answer]:
    """Loss and both gradients."""

    def call(hidden: Tensor, target: Tensor) -> Answer:
        leaves = hidden.detach().requires_grad_(), head(hidden).detach().requires_grad_()
        value = loss(*leaves, target)
        by_hidden, by_weight = torch.autograd.grad(value, leaves)
        return {"loss": value.detach(), "by_hidden": by_hidden, "by_weight": by_weight}

    return call


def by_logits(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """What a user writes in PyTorch, with the loss in float32."""
    return F.cross_entropy(rivals.wide(F.linear(hidden, weight)), target)


def liger(device: torch.device) -> Loss:
    rivals.needs_cuda(device)
    make = rivals.from_package("liger_kernel", "liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")
    loss = make()
    return lambda hidden, weight, target: loss(weight, hidden, target)  # type: ignore[operator]


def cut_cross_entropy(device: torch.device) -> Loss:
    rivals.needs_cuda(device)
    return rivals.from_package("cut_cross_entropy", "cut_cross_entropy", "linear_cross_entropy")  # type: ignore[return-value]


def bench_linear_cross_entropy(measure: Callable[[], None]) -> None:
    measure()
