"""The `torch.library` ops behind `kth_magnitude` and `prune_regrow_`: schema and fake.

`weights` P contiguous tensors of one device; `masks` P bool tensors of their shapes, or none; `gradients` P tensors of
their shapes and dtypes, or none; `offsets` the global index of each tensor's first element; `keys` of the random
numbers, 64 bits as signed integers. `kind` says what the cuts [P, 2] (fluxcore/reference/prune.py) are of: "magnitude"
of active weights, "gradient" or "random" of inactive positions. `states` are set to 0 where the weight of tensor
`state_owners[i]` is dropped or regrown; of kind "none" nothing is regrown. If `group` > 0, `drop` is not read: of each
`group` consecutive elements all active ones but the `keep` largest are dropped. `prune_apply_` returns [P, 3] int64:
dropped, regrown, and active afterwards. None of them is differentiable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import Library, register_fake

from fluxcore.ops import _prune_backends as backends

_library = Library("fluxcore", "FRAGMENT")
_tags = (torch.Tag.pt2_compliant_tag,)
_library.define("kth_magnitude(Tensor[] tensors, int[] k, bool per_tensor) -> Tensor", tags=_tags)
_library.define(
    "prune_cuts(Tensor[] weights, Tensor[] masks, Tensor[] gradients, str kind, float fraction, bool per_tensor,"
    " int[] offsets, int[] keys, int step) -> Tensor",
    tags=_tags,
)
_library.define(
    "prune_apply_(Tensor(a!)[] weights, Tensor(b!)[] masks, Tensor(c!)[] states, int[] state_owners,"
    " Tensor[] gradients, Tensor drop, Tensor regrow, str kind, float[] noise_std, int[] offsets, int[] keys, int step,"
    " int keep=0, int group=0) -> Tensor",
    tags=_tags,
)
_library.impl("kth_magnitude", backends.kth_magnitude, "CompositeExplicitAutograd")
_library.impl("prune_cuts", backends.prune_cuts, "CompositeExplicitAutograd")
_library.impl("prune_apply_", backends.prune_apply_, "CompositeExplicitAutograd")


def _kth_fake(tensors: Sequence[Tensor], k: Sequence[int], per_tensor: bool) -> Tensor:
    return tensors[0].new_empty((len(tensors),) if per_tensor else (), dtype=torch.float32)


def _cuts_fake(weights: Sequence[Tensor], *_: object) -> Tensor:
    return weights[0].new_empty((len(weights), 2), dtype=torch.int64)


def _apply_fake(weights: Sequence[Tensor], *_: object) -> Tensor:
    return weights[0].new_empty((len(weights), 3), dtype=torch.int64)


register_fake("fluxcore::kth_magnitude", _kth_fake, lib=_library)
register_fake("fluxcore::prune_cuts", _cuts_fake, lib=_library)
register_fake("fluxcore::prune_apply_", _apply_fake, lib=_library)

kth_magnitude = torch.ops.fluxcore.kth_magnitude
prune_cuts = torch.ops.fluxcore.prune_cuts
prune_apply_ = torch.ops.fluxcore.prune_apply_
