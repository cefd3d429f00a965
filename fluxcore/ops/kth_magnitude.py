"""The k-th smallest magnitude of many tensors, exactly."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from fluxcore.ops import _prune_op
from fluxcore.ops._checks import check_choice, check_whole
from fluxcore.ops._tensor_lists import contiguous, named

Scope = Literal["tensor", "global"]
SCOPES = ("tensor", "global")


def kth_magnitude(
    tensors: Mapping[str, Tensor] | Iterable[Tensor], k: int | Sequence[int], scope: Scope = "global"
) -> Tensor:
    """The k-th smallest |w| over a list of tensors, without sorting and without a limit on their size.

    Exact: the value is one of the |w|. NaN counts as larger than infinity. A tensor that is given twice counts once.

    Args:
        tensors: A list, or a mapping of names; float32, bfloat16 or float16, any shapes, all on one device.
        k: From 1, as in `torch.kthvalue`; for scope "tensor" one number for all or one each.
        scope: "global", one selection over all elements, or "tensor", one in each tensor.

    Returns:
        float32, [] for scope "global", [number of tensors] for "tensor". Not differentiable.

    Raises:
        TypeError: not a list of such tensors.
        ValueError: `k` is not within [1, number of elements], tensors on several devices, or sharing memory in part.

    Source: radix selection on the bits of |w|, which order like |w|.
    """
    check_choice("scope", scope, SCOPES)
    weights = named("tensors", tensors)
    if not weights:
        raise ValueError("`tensors` must hold at least one tensor, got none")
    sizes = {name: x.numel() for name, x in weights.items()}
    if scope == "global":
        sizes = {"all tensors": sum(sizes.values())}
    numbers = [check_whole("k", one) for one in k] if isinstance(k, Sequence) else [check_whole("k", k)] * len(sizes)
    if len(numbers) != len(sizes):
        raise ValueError(f"`k` must be a number, or {len(sizes)} of them for scope {scope!r}, got {len(numbers)}")
    for number, (name, size) in zip(numbers, sizes.items(), strict=True):
        if not 1 <= number <= size:
            raise ValueError(f"`k` must be within [1, {size}], the elements of {name}, got {number}")
    return _prune_op.kth_magnitude(contiguous(weights.values()), numbers, scope == "tensor")  # type: ignore[no-any-return]
