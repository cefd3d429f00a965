"""Generalized advantage estimation: public function, checks and `torch.library` op."""

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fluxcore.ops import _gae_backends as backends
from fluxcore.ops._checks import DTYPES, check_dense, check_no_gradient


def gae(
    rewards: Tensor,
    values: Tensor,
    dones: Tensor,
    *,
    bootstrap: Tensor | float,
    gamma: float,
    lam: float,
    mask: Tensor | None = None,
    ratio: Tensor | None = None,
    rho_clip: float | None = None,
    c_clip: float | None = None,
    time_dim: int = -1,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of all steps of many trajectories, in one read of each tensor.

    From the last step back, with V' and A' the value and the advantage of the next step, and n = 1 - done:

        delta = reward + gamma n V' - V,   A = delta + gamma lam n A',   return = A + V

    With `ratio` delta is multiplied by min(ratio, rho_clip), and what A takes from A' by min(ratio, c_clip): the clips
    of V-trace. A step that `mask` leaves out is as if it were not there: its neighbours are each other's next.

    Args:
        rewards: [..., T, ...], float32, bfloat16, float16 or float64; time is `time_dim`.
        values: The same shape; what is expected at each step, before its reward.
        dones: The same shape, bool, integer or floating point within [0, 1]: 1 where the episode ends after the step.
            Then nothing of what follows counts, not even a NaN.
        bootstrap: The value after the last step: the shape without `time_dim`, or one number.
        gamma: Within [0, 1], the discount.
        lam: Within [0, 1]: 0 for one-step advantages, 1 for those of the whole return.
        mask: The same shape, bool or integer, 0 for steps that are left out; their values are not looked at.
        ratio: The same shape, floating point: probability of the action under the target policy over that under the
            behaviour policy.
        rho_clip: > 0, only with `ratio`; None stands for 1.
        c_clip: > 0, only with `ratio`; None stands for 1.
        time_dim: Which dim is time. Memory is read along the last dim in either case.

    Returns:
        (advantages, returns), each of the shape of `rewards`, 0 where `mask` is; float64 if `rewards` or `values` are,
        else float32. Bitwise the same for every `time_dim` on one CPU. Not differentiable.

    Raises:
        TypeError: a tensor of another dtype.
        ValueError: a shape, device or number out of range, clips without `ratio`, a tensor that requires grad, or a
            backend that cannot run here.

    Source: Schulman et al., arXiv:1506.02438; clips: Espeholt et al., arXiv:1802.01561.
    """
    _check_steps(rewards, values, dones, mask, ratio)
    if not -rewards.dim() <= time_dim < rewards.dim():
        raise ValueError(f"`time_dim` must be a dim of `rewards`, of shape {tuple(rewards.shape)}, got {time_dim}")
    clips = _checked_clips(ratio, rho_clip, c_clip)
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be within [0, 1], got {value}")
    dim = time_dim % rewards.dim()
    shape = rewards.shape
    slabs = (shape[:dim].numel(), shape[dim], shape[dim + 1 :].numel())
    wide = backends.result_dtype(rewards, values)
    same = rewards.dtype == values.dtype
    advantages, returns = torch.ops.fluxcore.gae(
        *((x if same else x.to(wide)).reshape(slabs) for x in (rewards, values)),
        (dones if dones.dtype == torch.bool else dones.to(wide)).reshape(slabs),
        _checked_bootstrap(bootstrap, rewards, dim, wide).reshape(slabs[0], slabs[2]),
        None if mask is None else mask.to(torch.bool).reshape(slabs),
        None if ratio is None else ratio.to(wide).reshape(slabs),
        float(gamma),
        float(lam),
        *clips,
    )
    return advantages.reshape(shape), returns.reshape(shape)


def _check_steps(rewards: Tensor, values: Tensor, dones: Tensor, mask: Tensor | None, ratio: Tensor | None) -> None:
    """Tensors of one shape on one device, of dtypes that fit."""
    check_dense("rewards", rewards)
    if rewards.dim() == 0:
        raise ValueError("`rewards` must have a dim of time, got a scalar")
    for name, x in {"rewards": rewards, "values": values, "dones": dones, "mask": mask, "ratio": ratio}.items():
        if x is None:
            continue
        check_dense(name, x)
        if x.shape != rewards.shape:
            raise ValueError(f"`{name}` must have the shape of `rewards`, {tuple(rewards.shape)}, got {tuple(x.shape)}")
        if x.device != rewards.device:
            raise ValueError(f"`{name}` must be on the device of `rewards`, {rewards.device}, got {x.device}")
        if name in ("rewards", "values", "ratio") and x.dtype not in DTYPES:
            raise TypeError(f"`{name}` must be float32, bfloat16, float16 or float64, got {x.dtype}")
        if name == "mask" and (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"`mask` must be bool or integer, got {x.dtype}\n\nWrite `mask != 0`.")
        if name == "dones" and x.is_complex():
            raise TypeError(f"`dones` must be bool, integer or floating point, got {x.dtype}")
        check_no_gradient(name, x)


def _checked_clips(ratio: Tensor | None, rho_clip: float | None, c_clip: float | None) -> tuple[float, float]:
    clips = {"rho_clip": rho_clip, "c_clip": c_clip}
    for name, clip in clips.items():
        if clip is not None and ratio is None:
            raise ValueError(f"`{name}` is only of use with `ratio`, got {clip} without it")
        if clip is not None and not clip > 0:
            raise ValueError(f"`{name}` must be > 0, or None for 1, got {clip}")
    rho, c = (1.0 if clip is None else float(clip) for clip in clips.values())
    return rho, c


def _checked_bootstrap(bootstrap: Tensor | float, rewards: Tensor, dim: int, wide: torch.dtype) -> Tensor:
    """[...] of the rows, contiguous."""
    shape = rewards.shape[:dim] + rewards.shape[dim + 1 :]
    if not isinstance(bootstrap, Tensor):
        return torch.full(shape, float(bootstrap), dtype=wide, device=rewards.device)
    check_dense("bootstrap", bootstrap)
    if bootstrap.shape != shape:
        raise ValueError(
            f"`bootstrap` must have the shape of `rewards` without time, {tuple(shape)}, got {tuple(bootstrap.shape)}"
        )
    if bootstrap.device != rewards.device:
        raise ValueError(f"`bootstrap` must be on the device of `rewards`, {rewards.device}, got {bootstrap.device}")
    check_no_gradient("bootstrap", bootstrap)
    return bootstrap.to(wide)


# The op. rewards, values, dones, mask and ratio [outer, T, inner], bootstrap [outer, inner]; rewards and values of one
# dtype, dones bool or of the results' dtype, as bootstrap and ratio are; mask bool.
_library = Library("fluxcore", "FRAGMENT")
_library.define(
    "gae(Tensor rewards, Tensor values, Tensor dones, Tensor bootstrap, Tensor? mask, Tensor? ratio, float gamma,"
    " float lam, float rho_clip, float c_clip) -> (Tensor advantages, Tensor returns)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("gae", backends.forward, "CompositeExplicitAutograd")


def _fake(rewards: Tensor, values: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return backends.empty_results(rewards, values)


register_fake("fluxcore::gae", _fake, lib=_library)
