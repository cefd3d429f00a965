"""Work that is killed at a place that a number names, so that every place can be tried."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fluxcore import _core

Action = Callable[[Callable[..., None]], Any]
"""Takes a callback, such as for its progress; each call of it is one more place."""

_CHANGES = ("fsync", "pwrite", "ftruncate", "rename", "replace", "unlink")


def killed_at(number: int, action: Action) -> bool:
    """Run `action` in a process that ends itself by SIGKILL at its `number`th place; whether it got that far.

    Places are the callback, and what stands right before a change of a file that Python makes.
    """
    child = os.fork()
    if child == 0:
        try:
            tick = _counter(number)
            for name in _CHANGES:
                setattr(os, name, _before(tick, getattr(os, name)))
            _core.publish_file = _before(tick, _core.publish_file)  # type: ignore[assignment]
            action(tick)
            os._exit(0)
        except BaseException:  # noqa: BLE001  the process must end here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    return code == -signal.SIGKILL


def killed_everywhere(action: Action, *, stride: int = 1) -> Iterator[int]:
    """Kill `action` at every `stride`th place, and yield after each; what is left is for the caller to look at."""
    number = 0
    while killed_at(number, action):
        yield number
        number += stride


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, but for the lock, which names the process."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".fluxcore.lock"}


def _counter(number: int) -> Callable[..., None]:
    left = [number]

    def tick(*_: object) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    return tick


def _before(tick: Callable[..., None], change: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        tick()
        return change(*arguments, **options)

    return counted
