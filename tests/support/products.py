"""Count the operations of matrix products."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1, "aten::bmm": 0}
"""With the place of the first factor."""


class CountProducts(TorchDispatchMode):
    """Adds up in `flop` the multiplications and additions of the matrix products inside the block.

    Args:
        implementations: What runs for each of our own ops by name: called here, so that what happens inside is seen.
    """

    def __init__(self, implementations: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self._implementations = implementations
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in _PRODUCTS:
            left, right = args[_PRODUCTS[name] : _PRODUCTS[name] + 2]
            self.flop += 2 * left.numel() * right.shape[-1]
        if name in self._implementations:
            with self:
                return self._implementations[name](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
