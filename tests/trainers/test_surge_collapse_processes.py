"""The trainer as users start it: by its command line, and as several processes."""

import sys

import pytest
from fluxcore.trainers.surge_collapse import CONFIGS, SurgeCollapseConfig, train
from support.trainer_processes import assert_alike, train_in_two
from support.trainer_runs import metrics

from fluxcore.training.launch import launch
from fluxcore.training.optimizer_config import OptimizerConfig
from fluxcore.training.surge_config import SurgeConfig


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


@pytest.mark.usefixtures("users_algorithms")
def test_two_processes_train_as_one(tmp_path):
    one = train(SurgeCollapseConfig(**settings(), run_dir=tmp_path / "one"))
    two = train_in_two("fluxcore.trainers.surge_collapse", SurgeCollapseConfig(**settings(), run_dir=tmp_path / "two"))
    # The target entropy is that of one micro-batch's labels, of which half a one has less.
    assert_alike(one, two, rel=1e-2, but=("reasons", "target_entropy"))
    for mine, other in zip(metrics(one), metrics(two), strict=True):
        assert (mine.get("target_entropy", 0.0) > 0) == (other.get("target_entropy", 0.0) > 0)


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
