"""A limit on the memory of a command, the files that the system keeps for it included."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.data.contender import CannotError

_JOIN = 'echo $$ > "$0" && exec "$@"'


@contextmanager
def memory_limit(
    size_bytes: int, *, own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[list[str]]:
    """What to put before a command so that it and its children get `size_bytes` together.

    That is a control group of the process's own, where it may make one, else a scope of systemd.

    Raises:
        CannotError: neither may be had; says what was tried.
    """
    tried = []
    for parent, limit in _parents(own, root):
        group = parent / f"fluxcore-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            tried.append(f"{parent}: {error.strerror}")
            continue
        try:
            (group / limit).write_text(str(size_bytes))
            prefix = ["sh", "-c", _JOIN, str(group / "cgroup.procs")]
            if (why := _why_not(prefix)) is None:
                yield prefix
                return
            tried.append(f"{group}: {why}")
        except OSError as error:
            tried.append(f"{group}: {error.strerror}")
        finally:
            group.rmdir()
    for scope in (["systemd-run"], ["systemd-run", "--user"]):
        prefix = [*scope, "--scope", "--quiet", "-p", f"MemoryMax={size_bytes}", "-p", "MemorySwapMax=0"]
        if (why := _why_not(prefix)) is None:
            yield prefix
            return
        tried.append(f"{' '.join(scope)}: {why}")
    raise CannotError(f"no control group may be made ({'; '.join(tried)})")


def _parents(own: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Groups in which one with a limit might be made, and the name of the limit's file; version 1, then version 2."""
    lines = [line.split(":", 2) for line in own.read_text().splitlines()] if own.exists() else []
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            # A container may see its own group as the root, and its path as seen from outside.
            for parent in (root / "memory" / path.lstrip("/"), root / "memory"):
                if parent.is_dir():
                    yield parent, "memory.limit_in_bytes"
    for number, _, path in lines:
        here = root / path.lstrip("/")
        if number == "0":
            # A group with processes has no limited groups below it, so that one beside it may be needed.
            for parent in (here, here.parent):
                control = parent / "cgroup.subtree_control"
                if control.exists() and "memory" in control.read_text().split():
                    yield parent, "memory.max"


def _why_not(prefix: list[str]) -> str | None:
    """Why a command that does nothing does not run so, or None."""
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
    return None if done.returncode == 0 else said[0]
