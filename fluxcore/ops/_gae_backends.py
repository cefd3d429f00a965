"""The op `gae` on each backend."""

import torch
from torch import Tensor

from fluxcore import _core, reference
from fluxcore.backends import Backend
from fluxcore.ops._dispatch import DTYPE_NAMES, backend_of, pointer

BACKENDS: tuple[Backend, ...] = ("triton", "cpp", "reference")
"""Those that have this op."""


def result_dtype(rewards: Tensor, values: Tensor) -> torch.dtype:
    """float64 if one of the two is, else float32."""
    return torch.float64 if torch.float64 in (rewards.dtype, values.dtype) else torch.float32


def empty_results(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns."""
    dtype = result_dtype(rewards, values)
    advantages, returns = (torch.empty(rewards.shape, dtype=dtype, device=rewards.device) for _ in range(2))
    return advantages, returns


def forward(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    bootstrap: Tensor,
    mask: Tensor | None,
    ratio: Tensor | None,
    gamma: float,
    lam: float,
    rho_clip: float,
    c_clip: float,
) -> tuple[Tensor, Tensor]:
    """Implementation of `fluxcore::gae` for every device."""
    results = empty_results(rewards, values)
    rewards, values, dones, bootstrap = (x.contiguous() for x in (rewards, values, dones, bootstrap))
    mask, ratio = (x if x is None else x.contiguous() for x in (mask, ratio))
    outer, steps, inner = rewards.shape
    match backend_of("gae", BACKENDS, rewards.device):
        case "cpp":
            _core.gae(
                rewards.data_ptr(),
                values.data_ptr(),
                DTYPE_NAMES[rewards.dtype],
                dones.data_ptr(),
                dones.dtype == torch.bool,
                bootstrap.data_ptr(),
                pointer(mask),
                pointer(ratio),
                outer,
                steps,
                inner,
                gamma,
                lam,
                rho_clip,
                c_clip,
                results[0].data_ptr(),
                results[1].data_ptr(),
                torch.get_num_threads(),
            )
        case "triton":
            from fluxcore.kernels.gae import launch_gae

            ends = dones.view(torch.uint8) if dones.dtype == torch.bool else dones
            counts = None if mask is None else mask.view(torch.uint8)
            launch_gae(rewards, values, ends, bootstrap, counts, ratio, gamma, lam, rho_clip, c_clip, *results)
        case _:
            found = reference.gae(
                rewards, values, dones, bootstrap=bootstrap, gamma=gamma, lam=lam, mask=mask, ratio=ratio,
                rho_clip=None if ratio is None else rho_clip, c_clip=None if ratio is None else c_clip, time_dim=1,
            )  # fmt: skip
            for result, value in zip(results, found, strict=True):
                result.copy_(value)
    return results
