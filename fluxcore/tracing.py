"""The memory that PyTorch code takes, found without taking it: by running it on tensors that have shapes alone."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(call: Callable[..., Any], *arguments: Tensor) -> int:
    """Most memory that `call(*arguments)` has in use at once beyond its arguments.

    Counted are the tensors that PyTorch's ops return, not what a kernel takes and gives back inside, nor what an
    allocator rounds up. The arguments' values are not looked at; on a call that looks at values this fails.

    Args:
        call: Made of PyTorch ops; may differentiate.
        arguments: Tensors of any device; only shapes, dtypes and whether they require grad matter.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # late, because it loads a second's worth of modules

    memory = Memory()
    with FakeTensorMode():
        fakes = [
            torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad) for tensor in arguments
        ]
        with MemoryTrace(memory):
            result = call(*fakes)
        del result  # alive up to here, as the caller of a real call would have it
    return memory.peak


@dataclass
class Memory:
    """Bytes of the storages that were added and still live."""

    live: int = 0
    peak: int = 0
    _known: set[int] = field(default_factory=set)

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, for as long as it lives."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or size == 0:
            return
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._remove, key, size)

    def note(self, workspace_bytes: int) -> None:
        """Raise the peak to what is live now and a workspace."""
        self.peak = max(self.peak, self.live + workspace_bytes)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class MemoryTrace(TorchDispatchMode):
    """Adds what the ops inside return to `memory`."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory

    def observe(self, func: Any, args: Any, kwargs: Any, results: tuple[Tensor, ...]) -> int:
        """Called for each op that is not a mere view; the bytes of its workspace."""
        return 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if is_view or func._schema.name.startswith("prim::"):
            return result
        results = tuple(value for value in tree_leaves(result) if isinstance(value, Tensor))
        workspace_bytes = self.observe(func, args, kwargs or {}, results)
        for value in results:
            self.memory.add(value)
        self.memory.note(workspace_bytes)
        return result
