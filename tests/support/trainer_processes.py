"""A trainer as users start it: its module in a process, or in several that share the work."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.trainer_runs import metrics

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "PYTHONPATH": str(TESTS)}
"""One thread a process; `support` can be imported by name, for the plug-ins of tests."""


def train_in_two(module: str, config: Any) -> Path:
    """Train in two processes that share each step; the run folder."""
    run: Path = config.run_dir
    config.to_yaml(run.with_suffix(".yaml"))
    # `accelerate launch --cpu` starts one process, whatever the number asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", module, "--config-dir", str(run.parent), "--config-name", run.name]
    done = subprocess.run(command, cwd=run.parent, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return run


def assert_alike(ours: Path, theirs: Path, *, rel: float, but: tuple[str, ...] = ()) -> None:
    """Two runs logged the same lines, with numbers as close as `rel`; keys of `but` are not compared."""
    for mine, other in zip(metrics(ours), metrics(theirs), strict=True):
        assert mine.keys() == other.keys()
        for key in mine.keys() - {*but}:
            assert other[key] == close_to(mine[key], rel), (mine["step"], mine["split"], key)


def close_to(value: Any, rel: float) -> Any:
    """What a logged value is compared with: numbers, one or many, to a relative error, and the rest as it is."""
    numbers = value if isinstance(value, list) else [value]
    return pytest.approx(value, rel=rel) if all(isinstance(each, int | float) for each in numbers) else value
