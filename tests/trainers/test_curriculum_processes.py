"""The trainer as users start it: as a process, killed at any time, or as several."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fluxcore.trainers.curriculum import CONFIGS, CurriculumConfig, train
from support.token_data import SCORE, write_documents
from support.trainer_processes import ENVIRONMENT, assert_alike, train_in_two
from support.trainer_runs import TINY_MODEL, metrics, weights

from fluxcore.training.launch import launch

MODULE = "fluxcore.trainers.curriculum"
SHORTER = ["steps=20", "eval_every=10", "eval_chunks=16", "generate_every=10", "save_every=4"]


def last_step(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


@pytest.mark.usefixtures("users_algorithms")
def test_quick_test_killed_and_resumed(tmp_path, monkeypatch):
    """With no data prepared: it makes its own; then kill -9, and on in another process to the same result."""
    command = [sys.executable, "-m", MODULE, "--config-name", "quick_test", "run_dir=killed", *SHORTER]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while last_step(tmp_path / "killed") < 10:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = CurriculumConfig.from_yaml(CONFIGS / "quick_test.yaml")
    for key, value in (override.split("=") for override in SHORTER):
        setattr(config, key, int(value))
    runs = []
    for name in ("killed", "whole"):
        config.run_dir = Path(name)
        runs.append(train(config))
    assert metrics(runs[0]) == metrics(runs[1])
    killed, whole = map(weights, runs)
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    samples = [json.loads(line) for line in (runs[1] / "samples.jsonl").read_text().splitlines()]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [
        (step, prompt) for step in (10, 20) for prompt in ("def ", "The ")
    ]
    assert list((runs[1] / "tensorboard").iterdir())
    assert list((runs[1] / "wandb").glob("offline-run-*"))


@pytest.mark.usefixtures("users_algorithms")
def test_two_processes_train_as_one(tmp_path):
    data = write_documents(tmp_path / "d")
    settings = {
        "data": data,
        "column": SCORE,
        "val_fraction": 0.2,
        "model_args": {**TINY_MODEL, "resid_pdrop": 0.0},
        "batch_size": 4,
        "accumulation": 2,
        "warmup_steps": 1,
        "lr": 1e-3,
        "log_every": 1,
        "save_every": 2,
        "keep_last": 99,
        "trackers": [],
    }
    one = train(CurriculumConfig(**settings, run_dir=tmp_path / "one"))
    two = train_in_two(MODULE, CurriculumConfig(**settings, run_dir=tmp_path / "two"))
    assert_alike(one, two, rel=1e-3)
    # Its checkpoint is as good as ours: one process goes on from it.
    assert weights(one).keys() == weights(two).keys()
    resumed = CurriculumConfig(
        **settings, run_dir=tmp_path / "three", resume=str(two / "checkpoints" / "step-00000002")
    )
    assert metrics(train(resumed))[-1]["loss"] == pytest.approx(metrics(one)[-1]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data=nowhere", "column=x"], 1, "nowhere"),
        (["data=embedded", "colum=x"], 2, "Did you mean `column`?"),
        (
            ["data=embedded", "column=x", "order=acending"],
            2,
            "expected one of [ascending, descending, random, bucketed, jittered, interleaved, paced]",
        ),
    ],
)
def test_mistakes_end_in_one_short_message(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["curriculum", *arguments])
    with pytest.raises(SystemExit) as ended:
        launch(CurriculumConfig, train, CONFIGS)
    assert ended.value.code == code
    assert message in capsys.readouterr().err
