"""`linear_cross_entropy` with gradient filtering, where rows are sure that it is one of two classes: beside itself
without the filter, and PyTorch. Targets are as frequent as words are."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, Floor
from benchmarks.ops.bench_linear_cross_entropy import DTYPES, HEADS, by_logits, make_head, training_step
from benchmarks.ops.rivals import tolerance
from fluxcore import GradientFilter, LinearOptions, linear_cross_entropy

N = {"cpu": 1024, "cuda": 8192}
LENGTH = 7.0  # of the two directions that make a hidden state: logits of 21 above others of standard deviation 3
THRESHOLD = 1e-8


def cases(device: torch.device) -> list[Case]:
    """The head of GPT-2 small; on a GPU in half precision too."""
    return [make_case(dtype, device) for dtype in DTYPES[device.type]]


def make_case(dtype: torch.dtype, device: torch.device) -> Case:
    (D, V), rows = HEADS["gpt2"], N[device.type]
    head = make_head(D, V, dtype)
    step = partial(training_step, head)
    return Case(
        name="linear_cross_entropy/gpt2_two_classes_forward_backward",
        shape=(rows, D, V),
        dtype=dtype,
        inputs=lambda device: make_inputs(rows, head(torch.empty((0, D), dtype=dtype, device=device))),
        contenders={
            "fluxcore": lambda: step(linear_cross_entropy),
            "fluxcore, filtered": lambda: step(filtered),
            "eager": lambda: step(by_logits),
        },
        truth=lambda hidden, target: step(by_logits)(hidden.double(), target),
        tolerance=10 * tolerance(dtype) if dtype == torch.float32 else tolerance(dtype),
        bytes_moved=2 * (rows * D + V * D) * dtype.itemsize,
        flop=6 * rows * D * V,
        floor=Floor.COPY,
        memory_like={"eager": training_step(lambda hidden: hidden.new_empty(V, D), by_logits)},
        input_bytes=(rows * D + V * D) * 4,
    )


def make_inputs(rows: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states along the weight [V, D] of two classes each, the first of which is the target."""
    generator = torch.Generator(weight.device).manual_seed(0)
    frequency = 1 / (torch.arange(weight.shape[0], device=weight.device) + 10.0)
    classes = torch.multinomial(frequency, 2 * rows, replacement=True, generator=generator).view(2, rows)
    directions = torch.nn.functional.normalize(weight[classes].float(), dim=-1)
    return (LENGTH * directions.sum(0)).to(weight.dtype), classes[0]


def filtered(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    own = GradientFilter(THRESHOLD, device=hidden.device)
    return linear_cross_entropy(hidden, weight, target, options=LinearOptions(gradient_filter=own))


def show_errors() -> None:
    """Of both gradients on a CPU, as shares of their norms, beside what the filter says that they are at most."""
    device = torch.device("cpu")
    own = GradientFilter(THRESHOLD)
    case = make_case(torch.float32, device)
    hidden, target = case.inputs(device)
    weight = make_head(hidden.shape[1], HEADS["gpt2"][1], torch.float32)(hidden)
    found = []
    for gradient_filter in (None, own):
        leaves = hidden.requires_grad_(), weight.requires_grad_()
        hidden.grad = weight.grad = None
        linear_cross_entropy(*leaves, target, options=LinearOptions(gradient_filter=gradient_filter)).backward()
        found.append([leaf.grad.clone() for leaf in leaves if leaf.grad is not None])
    print(f"left out: {own.bound.left_out:.4f} of the gradients of logits")
    for name, exact, ours, bound in zip(("input", "weight"), *found, own.bound, strict=False):
        print(f"{name}: off by {(ours - exact).norm() / exact.norm():.1e}, at most {bound / exact.norm():.1e}")


def bench_linear_filter(measure: Callable[[], None]) -> None:
    measure()


if __name__ == "__main__":
    show_errors()
