"""The bundled small set-up, run whole as a user would: minutes a seed."""

import pytest
from fluxcore.trainers.ppo import CONFIGS, PPOConfig, train
from support.ppo_runs import assert_reward_rises_and_kl_holds
from support.trainer_runs import split


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the small model is trained once for all seeds."""
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_reward_rises_and_the_divergence_keeps_to_its_target(folder, monkeypatch, seed):
    monkeypatch.chdir(folder)
    config = PPOConfig.from_yaml(CONFIGS / "tiny.yaml")
    config.seed, config.run_dir = seed, folder / f"seed-{seed}"
    run = train(config)
    assert_reward_rises_and_kl_holds(split(run, "train"), config.kl.target)
    assert (run / "reward.png").exists()
    assert (run / "kl.png").exists()
