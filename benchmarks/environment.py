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


@cache
def environment(device: torch.device) -> dict[str, str]:
    """Device, versions, commit and date."""
    facts = {"device": device_name(device), "python": platform.python_version(), "commit": commit()}
    for package in ("fluxcore", "torch", "triton"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
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
