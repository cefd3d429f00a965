"""Definition of `gae`: a recursion from the last step to the first."""

import torch
from torch import Tensor


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
    """The definition of `fluxcore.gae`: same arguments, same results, unchecked and unfused.

    With A' and V' those of the next step that counts (0 and `bootstrap` after the last one) and n = 1 - done,

        delta = min(ratio, rho_clip) (reward + gamma n V' - V)
        A     = delta + gamma lam n min(ratio, c_clip) A',   return = A + V
    """
    wide = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    r, V, live = (x.to(wide).movedim(time_dim, 0) for x in (rewards, values, 1 - dones.to(wide)))
    counts = torch.ones_like(r, dtype=torch.bool) if mask is None else mask.bool().movedim(time_dim, 0)
    rho = c = torch.ones_like(r)
    if ratio is not None:
        weights = ratio.to(wide).movedim(time_dim, 0)
        rho, c = (weights.clamp(max=1 if clip is None else clip) for clip in (rho_clip, c_clip))
    next_value = torch.as_tensor(bootstrap, dtype=wide, device=r.device).expand(r.shape[1:])
    carry = torch.zeros(r.shape[1:], dtype=wide, device=r.device)
    advantages = torch.zeros_like(r)
    for t in reversed(range(r.shape[0])):
        # An episode that ends here has nothing after it, not even a NaN.
        after_value, after = (torch.where(live[t] == 0, 0, live[t] * x) for x in (next_value, carry))
        advantage = rho[t] * (r[t] + gamma * after_value - V[t]) + gamma * lam * c[t] * after
        advantages[t] = torch.where(counts[t], advantage, 0)
        carry = torch.where(counts[t], advantage, carry)
        next_value = torch.where(counts[t], V[t], next_value)
    returns = torch.where(counts, advantages + V, 0)
    return advantages.movedim(0, time_dim), returns.movedim(0, time_dim)
