import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from support.grid_runs import trains

from fluxcore.training.config import ConfigError
from fluxcore.training.grid import Job, open_grid, train_grid
from fluxcore.training.launch import launch
from fluxcore.training.trainer_config import TrainerConfig


@dataclass(kw_only=True, slots=True)
class PlainConfig(TrainerConfig):
    name: ClassVar[str] = "plain"
    data: Path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command line; the configurations that training was called with."""
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "default.yaml").write_text("defaults: [plain_schema, _self_]\n")
    (configs / "small.yaml").write_text("defaults: [plain_schema, _self_]\nlr: 0.5\nseq: 8\n")

    def run(*arguments, train=None):
        called = []
        monkeypatch.setattr(sys, "argv", ["plain.py", *arguments])
        launch(PlainConfig, train or called.append, configs)
        return called

    return run


def test_overrides_reach_the_configuration(command, tmp_path):
    (config,) = command("data=/x", "seed=3", "--config-name", "small", "seq=null", "trackers=[wandb]")
    assert (config.data, config.seed, config.lr, config.seq) == (Path("/x"), 3, 0.5, None)
    assert [tracker.name for tracker in config.trackers] == ["wandb"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs"]  # Hydra leaves nothing behind


def test_new_keys_of_a_mapping(command):
    (config,) = command("data=/x", "+model_args.n_layer=2")
    assert config.model_args == {"n_layer": 2}


def test_multirun_gives_each_job_its_folder(command, tmp_path):
    configs = command("--multirun", "data=/x", "run_dir=runs", "seed=1,2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs", "runs"]
    assert [(config.seed, config.run_dir) for config in configs] == [(1, Path("runs/seed=1")), (2, Path("runs/seed=2"))]


def test_a_sweep_is_trained_once_and_extended(command, capsys):
    assert len(command("--multirun", "data=/x", "run_dir=runs", "seed=1,2")) == 2
    assert [config.seed for config in command("--multirun", "data=/x", "run_dir=runs", "seed=1,2,3")] == [3]
    assert capsys.readouterr().out.splitlines()[-3:-1] == ["seed=1: kept", "seed=2: kept"]


def test_a_run_of_a_sweep_that_fails_is_listed_and_the_others_go_on(command, capsys):
    trained = []

    def train(config):
        if config.seed == 1:
            raise RuntimeError("out of memory\nat length")
        trained.append(config.seed)

    with pytest.raises(SystemExit) as ended:
        command("--multirun", "data=/x", "run_dir=runs", "seed=1,2", train=train)
    assert ended.value.code == 1
    assert trained == [2]
    assert "seed=1: failed, RuntimeError: out of memory\n" in capsys.readouterr().out


def test_a_sweep_with_a_wrong_run_trains_none(command):
    trained = []
    with pytest.raises(SystemExit) as ended:
        command("--multirun", "data=/x", "run_dir=runs", "seed=1,-1", train=trained.append)
    assert (ended.value.code, trained) == (2, [])


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (lambda folder: open_grid(folder, "another", {}), "holds runs of the experiment another"),
        (lambda folder: open_grid(folder, "plain", {"lr": 0.25}), "lr=0.25 is now 0.0006"),
        (lambda folder: (folder.mkdir(), (folder / "x").touch()), "is not empty, and no folder of runs"),
    ],
)
def test_the_folder_of_other_runs_is_refused(command, tmp_path, capsys, before, message):
    before(tmp_path / "runs")
    trained = []
    with pytest.raises(SystemExit) as ended:
        command("--multirun", "data=/x", "run_dir=runs", "seed=1,2", train=trained.append)
    assert (ended.value.code, trained) == (2, [])
    assert message in capsys.readouterr().err


def test_processes_share_a_sweep_and_outlive_each_other(tmp_path):
    jobs = [Job(f"seed={seed}", partial(trains, tmp_path, seed)) for seed in (1, 2, 3)]
    assert train_grid(tmp_path, jobs, processes=2) == {
        "seed=1": "failed, its process ended",
        "seed=2": "trained for 2 steps",
        "seed=3": "trained for 3 steps",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=/x", "sead=1"], "`sead` is not a key of this configuration\n\nDid you mean `seed`?"),
        (["data=/x", "+sead=1"], "Did you mean `seed`?"),
        (["data=/x", "seed=many"], "`seed`: value 'many' of type 'str' could not be converted to Integer"),
        (
            ["data=/x", "schedule=cosin"],
            "`schedule`: invalid value 'cosin', expected one of [constant, linear, cosine]",
        ),
        (["data=/x", "seed=-1"], "`seed` must be >= 0, got -1"),
        (["data=/x", "model_args.n_layer=2"], "`model_args.n_layer` is not there yet"),
        ([], "`data` must be given"),
        (["--config-name", "nothing"], "nothing"),
    ],
)
def test_a_wrong_key_or_value_is_a_usage_error(command, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("`seq` is wrong"), 2, "error: `seq` is wrong"),
        (ValueError("`x` is wrong"), 1, "error: `x` is wrong"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "error: no such file: `/x`"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_an_error_of_training_is_short(command, capsys, error, code, message):
    def train(config):
        raise error

    with pytest.raises(SystemExit) as ended:
        command("data=/x", train=train)
    assert ended.value.code == code
    assert message in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(command):
    def train(config):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        command("data=/x", train=train)
