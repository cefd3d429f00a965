"""Where a row was measured, and how much memory a call took there."""

import datetime
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import ROOT
from fluxcore.backends import resolve_backend


@cache
def environment(device: torch.device) -> dict[str, str]:
    """Device, versions, commit and date."""
    facts = {"device": device_name(device), "python": platform.python_version(), "commit": commit()}
    for package in ("fluxcore", "torch", "triton"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["backend"] = resolve_backend(device)
    if device.type == "cpu":
        facts["threads"] = str(torch.get_num_threads())
    facts["date"] = datetime.date.today().isoformat()
    return facts


def device_name(device: torch.device) -> str:
    """The name that the maker gave it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with `+changes` if files differ from it."""
    git = ("git", "-C", str(ROOT))
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+changes" if changes.stdout.strip() else "")


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that a call could take now, without swap; None where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    free = int(next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")).split()[1])
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip() != "max":
        return min(free * 1024, int(limit.read_text()) - int(used.read_text()))
    return free * 1024


def peak_memory_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Most memory (1e6 bytes) in use at once during a call, beyond what was in use before it.

    On a CPU that is the process's resident memory, which Linux keeps; None where it cannot be read.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
        before = _status_mb(status, "VmRSS")
    except OSError:
        return None
    call()
    return max(0.0, _status_mb(status, "VmHWM") - before)


def _status_mb(status: Path, field: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6
