"""How a page was made: by which command, from runs of which versions and commit, on what machine."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fluxcore.report.runs import Run


def facts(runs: Sequence[Run], command: str | None = None) -> dict[str, str]:
    """What is needed to make the page again, as label -> value.

    Args:
        runs: their folders say with which versions they were trained.
        command: that made the page; this process's own if None.
    """
    environments = [run.environment for run in runs]
    return {
        "command": command or shlex.join(["fluxcore", *sys.argv[1:]]),
        "runs": ", ".join(str(run.folder) for run in runs),
        "trained at commit": distinct(str(e["commit"]) for e in environments if e.get("commit")),
        "trained with": distinct(versions(e) for e in environments),
        "page by": f"fluxcore {version('fluxcore')}, Python {platform.python_version()}",
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} usable cores, {platform.system()}",
    }


def versions(environment: dict[str, Any]) -> str:
    """Names and versions of a run's packages."""
    known = {"Python": environment.get("python"), **environment.get("versions", {})}
    return ", ".join(f"{name} {number}" for name, number in known.items() if number)


def distinct(values: Iterable[str]) -> str:
    """The different values, each once; "unknown" where there is none."""
    return "; ".join(dict.fromkeys(value for value in values if value)) or "unknown"


def processor() -> str:
    """Name of the processor as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
