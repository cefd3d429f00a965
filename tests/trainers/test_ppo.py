import json
import shutil

import pytest
import torch
from fluxcore.trainers import ppo
from fluxcore.trainers.ppo import CONFIGS, PPOConfig, train
from support.ppo_runs import assert_reward_rises_and_kl_holds, ppo_config, write_prompts
from support.trainer_runs import metrics, split, weights
from transformers import AutoModelForCausalLM

import fluxcore.data
from fluxcore.data import Autocurriculum, Difficulty
from fluxcore.training.ppo_config import RewardConfig
from fluxcore.training.ppo_step import Collector, Updater
from fluxcore.training.split import split_by_document


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "data", documents=60)


@pytest.fixture
def configure(data, tmp_path):
    return lambda run="run", **changes: ppo_config(changes.pop("data", data), tmp_path / run, **changes)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """On one thread, and without a second for the page but where it is looked at."""
    if request.function is not test_what_is_logged:
        monkeypatch.setattr(ppo, "write_ppo_page", lambda folder: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StopError(Exception):
    """The process ends here."""


def stop_in(monkeypatch, owner, method, calls):
    """Let the run fail at a call of a method."""
    original, done = getattr(owner, method), 0

    def counted(self, *args, **options):
        nonlocal done
        if done == calls:
            raise StopError
        done += 1
        return original(self, *args, **options)

    monkeypatch.setattr(owner, method, counted)


def test_a_killed_run_goes_on_bit_for_bit(configure, monkeypatch):
    most = {"autocurriculum__rule": "learning_progress", "value": "network"}  # the rule that looks back
    whole = train(configure("whole", **most))
    # Before a checkpoint, among a step's answers, among its minibatches.
    for owner, method, calls in ((Updater, "update", 1), (Collector, "answers", 5), (Updater, "backward", 9)):
        with monkeypatch.context() as patch:
            stop_in(patch, owner, method, calls)
            with pytest.raises(StopError):
                train(configure("broken", **most))
    broken = train(configure("broken", **most))
    assert metrics(broken) == metrics(whole)
    ours, theirs = weights(broken), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    states = [
        torch.load(run / "checkpoints" / "last" / "training_state.pt", weights_only=True)["parts"]
        for run in (whole, broken)
    ]
    for name in ("kl", "curriculum", "loader"):
        assert states[0][name] == states[1][name]
    frozen = [state["frozen"] for state in states]
    assert all(torch.equal(frozen[0][key], frozen[1][key]) for key in frozen[0])


def test_weights_follow_difficulty(configure):
    run = train(configure())
    events = split(run, "mixture")
    assert [event["step"] for event in events] == [2, 4, 6]
    curriculum = Autocurriculum(["web", "code"], rate=2.0, floor=0.05)
    for event in events:
        measured = {
            name: Difficulty(event[f"difficulty/{name}"], event[f"variance/{name}"]) for name in curriculum.names
        }
        expected = curriculum.update(measured)
        assert {name: event[f"weight/{name}"] for name in curriculum.names} == expected
    # The copy lags: brought up to date after step 3, so that it says the same of the first two samples' model.
    saved = run / "checkpoints" / "last"
    mixture = torch.load(saved / "training_state.pt", weights_only=True)["parts"]["loader"]["mixture"]
    begin, quanta = mixture["log"][-1]
    assert begin == 4
    assert quanta[0] / sum(quanta) == pytest.approx(events[1]["weight/web"], abs=1e-4)


def test_what_is_logged(configure, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    trackers = {"trackers": ["tensorboard", "wandb"], "wandb_mode": "offline"}
    run = train(configure(**trackers, generate_every=6, prompts=["n1n2"]))
    training, validation = split(run, "train"), split(run, "val")
    names = {"loss", "policy_loss", "value_loss", "kl", "kl_coefficient", "entropy", "reward", "clip_fraction", "lr"}
    names |= {"reward/repetition", "reward/support.ppo_runs:share_of_small", "answer_tokens", "grad_norm", "stopped"}
    assert names <= training[-1].keys()
    assert training[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert training[0]["kl_coefficient"] == 0.1
    assert 0 < training[1]["kl"] < 1
    for line in training:
        parts = line["reward/repetition"] + line["reward/support.ppo_runs:share_of_small"]
        assert line["reward"] == pytest.approx(parts, abs=1e-6)
        assert 1 <= line["answer_tokens"] <= 6
    assert [line["step"] for line in validation] == [3, 6]
    assert {"loss", "perplexity", "entropy", "max_prob"} <= validation[0].keys()
    assert list((run / "tensorboard").iterdir())
    assert list((run / "wandb").glob("offline-run-*"))
    page = (run / "report.html").read_text()
    assert "Reward an answer went from" in page
    assert {"reward.png", "kl.png", "weights.png", "difficulty.png"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "samples.jsonl").read_text().splitlines()[0])["prompt"] == "n1n2"


def held_out_loss(model, data):
    ds = fluxcore.data.open(data)
    tokens, targets = (torch.from_numpy(x) for x in ds.gather(split_by_document(ds, 0.2, 0)[1]))
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


def test_validation_is_the_models_loss_on_held_out_documents(configure, data):
    run = train(configure(steps=2, eval_every=0))
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "last").eval()
    assert split(run, "val")[-1]["loss"] == pytest.approx(held_out_loss(model, data), rel=1e-5)


def test_the_best_model_is_that_of_the_lowest_validation_loss(configure):
    run = train(configure(lr=3e-2, clip=0.9, kl__stop=0.0, eval_every=1, save_every=0))  # a rate that ruins the model
    losses = {line["step"]: line["loss"] for line in split(run, "val")}
    best = min(losses, key=losses.get)
    assert best < 6
    assert (run / "checkpoints" / "best").resolve().name == f"step-{best:08d}"
    assert (run / "checkpoints" / "last").resolve().name == "step-00000006"


def test_adapters_alone_are_trained_and_go_on_bit_for_bit(configure, monkeypatch, data):
    changes = {"lora__rank": 2, "steps": 4, "eval_every": 0, "lr": 1e-2}
    whole = train(configure("whole", **changes))
    stop_in(monkeypatch, Updater, "backward", 9)
    with pytest.raises(StopError):
        train(configure("broken", **changes))
    monkeypatch.undo()
    monkeypatch.setattr(ppo, "write_ppo_page", lambda folder: None)
    broken = train(configure("broken", **changes))
    assert metrics(broken) == metrics(whole)
    ours, theirs = weights(broken), weights(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert split(whole, "train")[-1]["kl"] > 0
    # The checkpoint is a plain model, of the loss that the one with adapters had.
    model = AutoModelForCausalLM.from_pretrained(whole / "checkpoints" / "last").eval()
    assert held_out_loss(model, data) == pytest.approx(split(whole, "val")[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": "given", "kl__estimator": "full", "autocurriculum__rule": "additive"},
        {"kl__estimator": "k3", "kl__controller": "fixed", "kl__stop": 0.0},
        {"kl__estimator": "k2", "temperature": 0.7, "value": "network"},
        {
            "kl__estimator": "k1",
            "autocurriculum__rule": "none",
            "entropy_bonus": 0.01,
            "mixed_precision": "bf16",
            "lora__rank": 4,
        },
    ],
    ids=str,
)
def test_other_ways(configure, changes):
    run = train(configure(steps=2, **changes))
    assert split(run, "train")[1]["kl"] != 0
    assert bool(split(run, "mixture")) is ("none" not in changes.values())


def test_a_step_ends_where_the_policy_went_too_far(configure):
    far = train(configure("far", lr=0.1, ppo_epochs=4, steps=2, kl__target=1e-4))
    assert split(far, "train")[0]["stopped"] == 1.0
    assert split(far, "train")[0]["optimizer_steps"] < 8
    free = train(configure("free", lr=0.1, ppo_epochs=4, steps=2, kl__target=1e-4, kl__stop=0.0))
    assert split(free, "train")[0]["optimizer_steps"] == 8


@pytest.mark.parametrize("seed", [0, 1])
def test_the_reward_rises_and_the_divergence_keeps_to_its_target(configure, seed):
    target = 0.05
    run = train(
        configure(
            seed=seed, steps=50, lr=2e-3, schedule="constant", batch_size=32, accumulation=1, minibatches=1, clip=0.2,
            ppo_epochs=3, gamma=1.0, eval_every=0, save_every=0, kl__target=target, kl__horizon=300,
            kl__coefficient=1.0, autocurriculum__every=10, autocurriculum__freeze_interval=10,
            rewards=[RewardConfig(name="support.ppo_runs:share_of_small")],
        )
    )  # fmt: skip
    assert_reward_rises_and_kl_holds(split(run, "train"), target)


@pytest.mark.parametrize("name", ["default", "tiny", "quick_test"])
def test_configurations_that_come_with_it(name, tmp_path):
    shutil.copy(CONFIGS / "prompts.yaml", tmp_path)
    text = (CONFIGS / f"{name}.yaml").read_text()
    (tmp_path / "given.yaml").write_text(text if "\ndata:" in text else text + "\ndata: x\n")
    config = PPOConfig.from_yaml(tmp_path / "given.yaml")
    config.to_yaml(tmp_path / "again.yaml")
    assert PPOConfig.from_yaml(tmp_path / "again.yaml") == config
    if name == "default":
        assert len(set(config.prompts)) >= 40


def test_the_embedded_model_is_a_run_of_the_curriculum_trainer(configure, monkeypatch, tmp_path):
    asked = []

    def train_curriculum(config):
        asked.append(config)
        small = ppo.load_model("micro", vocab_size=64, context=16, overrides=configure().model_args)
        small.save_pretrained(tmp_path / "model" / "checkpoints" / "last")
        return tmp_path / "model"

    monkeypatch.setattr(ppo.curriculum, "train", train_curriculum)
    assert split(train(configure(model="embedded", model_args={}, steps=2)), "train")
    assert asked[0].name == "curriculum"
