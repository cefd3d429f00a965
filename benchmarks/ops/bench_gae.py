"""`gae` against the loop over time that trainers have, eager and by torch.compile, with time last and time first."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import fluxcore
from benchmarks.harness import Answer, Case
from benchmarks.ops import rivals

SHAPE = (4096, 2048)
OPTIONS = {"gamma": 0.99, "lam": 0.95}


def cases(device: torch.device) -> list[Case]:
    """Both layouts, plain and with a mask."""
    return [make_case(name, masked) for name in ("time_last", "time_first") for masked in (False, True)]


def make_case(name: str, masked: bool) -> Case:
    time_dim = 1 if name == "time_last" else 0
    steps = SHAPE[0] * SHAPE[1]
    return Case(
        name=f"gae/{name}{'_masked' if masked else ''}",
        shape=SHAPE,
        dtype=torch.float32,
        inputs=partial(make_inputs, masked),
        contenders={
            "fluxcore": lambda: partial(ours, time_dim=time_dim),
            "eager": lambda: partial(loop, time_dim=time_dim),
            # Of a loop over 2048 steps torch.compile would unroll every one: it gets one step to compile.
            "torch.compile": lambda: partial(loop, time_dim=time_dim, step=rivals.compiled(one_step)),
        },
        truth=lambda rewards, *rest: loop(rewards.double(), *rest, time_dim=time_dim),
        tolerance=1e-5,
        bytes_moved=(18 if masked else 17) * steps,
        check_rows=SHAPE[0],
        input_bytes=10 * steps,
    )


def make_inputs(masked: bool, device: torch.device) -> tuple[Tensor, ...]:
    """Rewards, values and dones, an episode of about 200 steps, and a mask of 9 steps in 10."""
    generator = torch.Generator(device).manual_seed(0)
    rewards, values = (torch.randn(SHAPE, generator=generator, device=device) for _ in range(2))
    dones = torch.rand(SHAPE, generator=generator, device=device) < 1 / 200
    return (rewards, values, dones) + ((torch.rand_like(rewards) < 0.9,) if masked else ())


def ours(rewards: Tensor, values: Tensor, dones: Tensor, mask: Tensor | None = None, *, time_dim: int) -> Answer:
    """By the op."""
    advantages, returns = fluxcore.gae(rewards, values, dones, bootstrap=0.0, mask=mask, time_dim=time_dim, **OPTIONS)
    return {"advantages": advantages, "returns": returns}


def loop(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    mask: Tensor | None = None,
    *,
    time_dim: int,
    step: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Answer:
    """What trainers have: a few small operations a step of time."""
    step = one_step if step is None else step
    r, V, d = (x.movedim(time_dim, 0) for x in (rewards, values, dones))
    counts = None if mask is None else mask.movedim(time_dim, 0)
    advantages, returns = torch.empty_like(r), torch.empty_like(r)
    carry = next_value = torch.zeros_like(r[0])
    for t in reversed(range(r.shape[0])):
        advantage, carry, next_value = step(r[t], V[t], d[t], None if counts is None else counts[t], carry, next_value)
        advantages[t] = advantage
        returns[t] = advantage + V[t] if counts is None else torch.where(counts[t], advantage + V[t], 0)
    return {"advantages": advantages.movedim(0, time_dim), "returns": returns.movedim(0, time_dim)}


def one_step(
    reward: Tensor, value: Tensor, done: Tensor, counts: Tensor | None, carry: Tensor, next_value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    live = ~done
    delta = reward + OPTIONS["gamma"] * live * next_value - value
    advantage = delta + OPTIONS["gamma"] * OPTIONS["lam"] * live * carry
    if counts is None:
        return advantage, advantage, value
    return (
        torch.where(counts, advantage, 0),
        torch.where(counts, advantage, carry),
        torch.where(counts, value, next_value),
    )


def bench_gae(measure: Callable[[], None]) -> None:
    measure()
