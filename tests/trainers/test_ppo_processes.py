"""The trainer as users start it: by its command line, and as several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fluxcore.trainers.ppo import train
from support.ppo_runs import ppo_config, write_prompts
from support.trainer_runs import split

from fluxcore.training.ppo_config import RewardConfig

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}


def test_two_processes_train_as_one(tmp_path):
    data = write_prompts(tmp_path / "data", documents=60)

    def config(name):
        seen = tmp_path / f"seen-{name}"
        # Few and small updates, so that rounding, which differs, does not change what is drawn.
        return ppo_config(
            data, tmp_path / name, steps=4, lr=1e-4, ppo_epochs=1, rewards=[RewardConfig(
                name="support.ppo_runs:write_down", args={"path": str(seen)})],
        )  # fmt: skip

    torch.use_deterministic_algorithms(False)  # as in a process of the user's
    one = train(config("one"))
    config("two").to_yaml(tmp_path / "two.yaml")
    # `accelerate launch --cpu` starts one process, whatever the number asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "fluxcore.trainers.ppo", "--config-dir", str(tmp_path), "--config-name", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def seen(name):
        files = list(tmp_path.glob(f"seen-{name}-*"))
        return len(files), sorted(line for file in files for line in file.read_text().splitlines())

    assert seen("one")[0] == 1
    assert seen("two")[0] == 2
    assert seen("two")[1] == seen("one")[1]  # the same prompts, and the same answers
    assert len(seen("one")[1]) == 4 * 16
    ours, theirs = (split(run, "mixture") for run in (one, tmp_path / "two"))
    assert [event["step"] for event in ours] == [2, 4]
    # Rounding differs, and Adam makes it grow; the first step has seen little of it.
    first, second = (split(run, "train")[0] for run in (one, tmp_path / "two"))
    assert first.keys() == second.keys()
    for key in first.keys() - {"split"}:
        assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5), key
    for a, b in zip(ours, theirs, strict=True):
        assert [b[f"weight/{name}"] for name in ("web", "code")] == pytest.approx(
            [a[f"weight/{name}"] for name in ("web", "code")], rel=1e-5
        )


def test_the_command_says_what_is_wrong(tmp_path):
    data = write_prompts(tmp_path / "data")
    command = [sys.executable, "-m", "fluxcore.trainers.ppo", f"data={data}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, "kl.target=0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `kl.target` must be finite and > 0 nats a token, got 0.0")
    assert "Traceback" not in done.stderr
