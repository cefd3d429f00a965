"""Which implementation of the ops runs: `triton`, `cpp` or `reference`.

CUDA tensors go to Triton and CPU tensors to C++, unless `with fluxcore.backend(...)` or, weaker, the environment
variable FLUXCORE_BACKEND says otherwise. The choice is made at each call, also inside a `torch.compile`d function.
"""

import os
from contextvars import ContextVar, Token
from typing import Literal, cast, get_args

import torch

Backend = Literal["triton", "cpp", "reference"]

_chosen: ContextVar[Backend | None] = ContextVar("fluxcore_backend", default=None)


class backend:  # noqa: N801 -- reads as `with fluxcore.backend("reference"):`
    """Run the ops inside the `with` block on one backend.

    The choice holds in the current thread (in the current context, with asyncio). A backward pass that autograd runs
    in a thread of its own, as it does for CUDA tensors, does not see it; FLUXCORE_BACKEND reaches every thread.

    Args:
        name: "triton", "cpp" or "reference".

    Raises:
        ValueError: another name. A backend that cannot run on the tensors' device raises when an op is called.
    """

    def __init__(self, name: Backend) -> None:
        self._name = _known(name, "`name`")
        self._tokens: list[Token[Backend | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_chosen.set(self._name))

    def __exit__(self, *_: object) -> None:
        _chosen.reset(self._tokens.pop())


def resolve_backend(device: torch.device) -> Backend:
    """Backend for tensors on `device`.

    Raises:
        ValueError: the chosen backend is unknown, or cannot run there.
    """
    chosen = _chosen.get()
    if chosen is None:
        from_env = os.environ.get("FLUXCORE_BACKEND")
        if not from_env:
            return _default(device)
        chosen = _known(from_env, "environment variable `FLUXCORE_BACKEND`")
    obstacle = _obstacle(chosen, device)
    if obstacle is not None:
        possible = ", ".join(name for name in available_backends(device))
        raise ValueError(f"backend `{chosen}` cannot run here: {obstacle}\n\nPossible on `{device}`: {possible}.")
    return chosen


def available_backends(device: torch.device | str) -> tuple[Backend, ...]:
    """Backends that can run on tensors of `device`, the default first."""
    device = torch.device(device)
    able = [name for name in get_args(Backend) if _obstacle(name, device) is None]
    return tuple(sorted(able, key=lambda name: name != _default(device)))


def _default(device: torch.device) -> Backend:
    match device.type:
        case "cuda":
            return "triton"
        case "cpu":
            return "cpp"
        case _:
            return "reference"


def _known(name: str, where: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"{where} must be one of {', '.join(get_args(Backend))}, got {name!r}")
    return cast(Backend, name)


def _obstacle(name: Backend, device: torch.device) -> str | None:
    """Why `name` cannot run on tensors of `device`; None if it can."""
    if name == "cpp" and device.type != "cpu":
        return f"its kernels read CPU memory, and the tensors are on `{device}`"
    if name == "triton" and device.type != "cuda" and not triton_is_interpreted():
        return f"its kernels need a GPU, and the tensors are on `{device}` (TRITON_INTERPRET=1 simulates one, slowly)"
    return None


def triton_is_interpreted() -> bool:
    """Whether Triton kernels run in its interpreter; fixed by TRITON_INTERPRET before Triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")
