"""How a page was made: versions, commit, machine, command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("fluxcore", "torch", "triton", "numpy", "transformers", "tokenizers", "accelerate")


def facts(command: str | None = None) -> dict[str, str]:
    """What is needed to make the page again, as label -> value."""
    return {
        "command": command or shlex.join(["fluxcore", *sys.argv[1:]]),
        "commit": commit() or "unknown (not run from a git checkout)",
        "versions": ", ".join(versions()),
        "Python": platform.python_version(),
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} usable cores, {platform.system()}",
    }


def versions() -> list[str]:
    """Name and version of each installed distribution that has a part in the result."""
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    return [f"{name} {installed[name]}" for name in DISTRIBUTIONS if name in installed]


def commit() -> str | None:
    """Commit of the checkout in the current folder, marked where files differ from it; None outside of one."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=, with changes", "--abbrev=12", "--exclude=*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or None


def processor() -> str:
    """Name of the processor as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
