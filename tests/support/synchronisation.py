"""Find calls that make the CPU wait for the GPU, also where there is no GPU."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique",
    "aten::_unique2",
}


class RecordSynchronisation(TorchDispatchMode):
    """Notes in `waits` each operation that needs a tensor's value on the CPU, or an output shape that depends on one.

    Args:
        implementations: What runs for each of our own ops by name: called here, so that what happens inside is seen.
    """

    def __init__(self, implementations: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self._implementations = implementations
        self.called: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.called.append(name)
        if name in _WAITING or (name == "aten::index" and _by_mask(args)):
            self.waits.append(name)
        if name in self._implementations:
            with self:
                return self._implementations[name](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _by_mask(args: Any) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in args[1])
