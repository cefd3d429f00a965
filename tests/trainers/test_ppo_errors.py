"""What a user may get wrong, and what is said about it."""

import pytest
import torch
from fluxcore.trainers import ppo
from fluxcore.trainers.ppo import train
from support.ppo_runs import ppo_config, write_prompts, write_tokenizer
from support.token_data import write_documents
from support.trainer_runs import metrics, split

from fluxcore.data import ShardWriter
from fluxcore.rl.rewards import RewardError
from fluxcore.training.config import ConfigError
from fluxcore.training.models import load_model
from fluxcore.training.ppo_config import RewardConfig


@pytest.fixture
def configure(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "write_ppo_page", lambda folder: None)  # a second
    data = write_prompts(tmp_path / "data", documents=60)
    return lambda run="run", **changes: ppo_config(changes.pop("data", data), tmp_path / run, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl__target": 0.0}, "`kl.target` must be finite and > 0 nats a token, got 0.0\n\nTo train without"),
        ({"kl__horizon": 50}, "`kl.horizon` must be at least a step's 96 tokens"),
        ({"rewards": []}, "`rewards` must name a reward at least"),
        ({"rewards": [RewardConfig(name="niceness")]}, "a reward must be one of repetition"),
        ({"minibatches": 3}, "`minibatches` must divide `accumulation` = 2, got 3"),
        ({"prompt_tokens": [4, 2]}, "`prompt_tokens` must be two lengths"),
        ({"temperature": 0.0}, "`temperature` must be finite and > 0, got 0.0"),
        ({"clip": 1.0}, r"`clip` must be within \(0, 1\), got 1.0"),
        ({"gamma": 1.5}, r"`gamma` must be within \[0, 1\], got 1.5"),
        ({"lora__rank": -1}, "`lora.rank` must be >= 0, got -1"),
        ({"lora__alpha": 0.0}, "`lora.alpha` must be finite and > 0, got 0.0"),
        ({"autocurriculum__every": 0}, "`autocurriculum.every` must be >= 1, got 0"),
    ],
    ids=str,
)
def test_keys_are_checked(configure, changes, message):
    with pytest.raises(ValueError, match=message):
        configure(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autocurriculum__floor": 0.6}, "`autocurriculum`: `floor` must be > 0 and at most 1 / 2 sources"),
        ({"lora__rank": 99}, "`lora`: `rank` must be within 1 and the width of the narrowest map, 16, got 99"),
        ({"tokens": 100, "steps": None}, "`tokens` is no budget of PPO"),
        ({"prompt_tokens": [2, 60], "model": "FOLDER"}, "`model` .* reads 16 tokens at most, and a sequence has 66"),
        ({"warmup_steps": 9}, "`warmup_steps` must be shorter than the run of 6 steps, got 9"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_at_the_start(configure, tmp_path, changes, message):
    if changes.get("model") == "FOLDER":
        small = load_model("micro", vocab_size=64, context=16, overrides=configure().model_args)
        small.save_pretrained(tmp_path / "small")
        changes = changes | {"model": str(tmp_path / "small"), "model_args": {}}
    config = configure(**changes)
    with pytest.raises(ValueError, match=message):
        train(config)
    assert metrics(config.run_dir) == []


def test_data_that_does_not_fit(configure, tmp_path):
    bare = write_documents(tmp_path / "bare")
    with pytest.raises(ConfigError, match="rewards need a tokenizer, and there is none at"):
        train(configure("a", data=bare))
    write_tokenizer(bare, end="[X]")
    with pytest.raises(ConfigError, match="has no end token, which would be padded with\n\nSet pad_token=ID"):
        train(configure("b", data=bare))
    run = train(configure("c", data=bare, pad_token=5, steps=2))
    assert {line["answer_tokens"] for line in split(run, "train")} == {6}  # nothing ends an answer early


def write_sources(folder, sources, used):
    with ShardWriter(folder, chunk_tokens=16, dtype="uint16", vocab_size=64, sources=sources) as writer:
        for document in range(40 if used else 0):
            writer.append([(document + i) % 64 for i in range(16)], source=used[document % len(used)], doc_id=document)
    write_tokenizer(folder)
    return folder


def test_sources_are_checked(configure, tmp_path):
    single = write_sources(tmp_path / "single", ["web"], ["web"])
    with pytest.raises(ConfigError, match=r"two sources at least, got [\s\S]*Set autocurriculum\.rule=none"):
        train(configure("a", data=single))
    assert split(train(configure("b", data=single, autocurriculum__rule="none", steps=2)), "train")
    empty = write_sources(tmp_path / "empty", ["web", "code"], ["web"])
    with pytest.raises(ConfigError, match="from every source, and has none of 'code'"):
        train(configure("c", data=empty))
    nothing = write_sources(tmp_path / "nothing", ["web", "code"], [])
    with pytest.raises(ConfigError, match=r"`data` must have a chunk at least, and .*nothing has none"):
        train(configure("d", data=nothing))


def broken_reward(batch):
    return torch.full((len(batch.mask),), float("nan"))


def test_a_reward_that_is_not_a_number_ends_the_run(configure):
    config = configure(rewards=[RewardConfig(name=f"{__name__}:broken_reward")])
    with pytest.raises(RewardError, match="must return finite numbers, got nan for the answer"):
        train(config)
    assert "must return finite numbers" in (config.run_dir / "log.txt").read_text()
