"""The trainer as users start it: by its command line, and as several processes."""

import os
import subprocess
import sys

import pytest
import torch
from fluxcore.trainers.surge_collapse import CONFIGS, SurgeCollapseConfig, train
from support.trainer_runs import metrics

from fluxcore.training.launch import launch
from fluxcore.training.optimizer_config import OptimizerConfig
from fluxcore.training.surge_config import SurgeConfig

MODULE = "fluxcore.trainers.surge_collapse"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # as in a process of the user's
    yield
    torch.set_num_threads(threads)


def settings(**changes):
    surge = SurgeConfig(
        collapse_on=["every", "entropy_above"], collapse_every=4, entropy_layers=["1"], entropy_above=0.9999
    )
    return {
        "modulus": 11,
        "model_args": {"width": 16},
        "accumulation": 2,
        "steps": 8,
        "log_every": 1,
        "eval_every": 4,
        "save_every": 4,
        "surge": surge,
        "optimizer": OptimizerConfig(kind="ortho_adamw"),
        "trackers": [],
        **changes,
    }


def test_two_processes_train_as_one(tmp_path):
    one = train(SurgeCollapseConfig(**settings(), run_dir=tmp_path / "one"))
    SurgeCollapseConfig(**settings(), run_dir=tmp_path / "two").to_yaml(tmp_path / "two.yaml")
    # `accelerate launch --cpu` starts one process, whatever the number asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", MODULE, "--config-dir", str(tmp_path), "--config-name", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = metrics(one), metrics(tmp_path / "two")
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in ("split", "reasons"):
            assert a.pop(key, None) == b.pop(key, None)
        # The entropy of one micro-batch's labels, of which half a one has less.
        assert (a.pop("target_entropy", 0.0) > 0) == (b.pop("target_entropy", 0.0) > 0)
        assert a == pytest.approx(b, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["surge.drop_fracton=0.1"], 2, "Did you mean `surge.drop_fraction`?"),
        (["optimizer.kind=adam"], 2, "expected one of [adamw, ortho_adamw, ortho_grad, sgd]"),
        (["surge.drop_fraction=2"], 2, "`surge.drop_fraction` must be within [0, 1], got 2.0"),
        (["task=multiply", "modulus=100"], 2, "The nearest primes are 97 and 101."),
        (["warmup_steps=20000"], 2, "`warmup_steps` must be shorter than the run of 10000 steps"),
        (["task=language", "model=micro", "data=nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes_end_in_one_short_message(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["surge_collapse", *arguments])
    with pytest.raises(SystemExit) as ended:
        launch(SurgeCollapseConfig, train, CONFIGS)
    assert ended.value.code == code
    assert message in capsys.readouterr().err
