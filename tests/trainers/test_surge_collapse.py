import json
import math

import pytest
import torch
from accelerate import Accelerator
from fluxcore.trainers.surge_collapse import CONFIGS, SurgeCollapseConfig, train
from safetensors.torch import load_file
from support.token_data import write_documents
from support.trainer_runs import TINY_MODEL, assert_same, metrics, split, weights

from fluxcore.training.classification_task import ClassificationTask
from fluxcore.training.config import ConfigError
from fluxcore.training.early_stopping import StopConfig
from fluxcore.training.optimizer_config import OptimizerConfig
from fluxcore.training.reduce_on_plateau import ReduceConfig
from fluxcore.training.seeds import seed_everything
from fluxcore.training.surge_config import SurgeConfig


@pytest.fixture
def configure(tmp_path):
    def configure(**changes):
        settings = {
            "modulus": 11,
            "model_args": {"width": 16},
            "steps": 12,
            "log_every": 3,
            "eval_every": 4,
            "save_every": 4,
            "trackers": [],
            "run_dir": tmp_path / "run",
        }
        return SurgeCollapseConfig(**{**settings, **changes})

    return configure


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StopError(Exception):
    """The process ends here."""


def stop_after(monkeypatch, parts):
    """Let the run fail after so many micro-batches."""
    original, done = ClassificationTask.parts, 0

    def counted(self, model, batch):
        nonlocal done
        for part in original(self, model, batch):
            if done == parts:
                raise StopError
            done += 1
            yield part

    monkeypatch.setattr(ClassificationTask, "parts", counted)


EVERYTHING = {
    "full_batch": False,
    "batch_size": 8,
    "accumulation": 2,
    "schedule": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "loss": "residual",
}
OPTIMIZERS = {
    "ortho_adamw": {"kind": "ortho_adamw", "grokfast": True},
    "ortho_grad": {"kind": "ortho_grad", "base": "sgd", "momentum": 0.9},
    "sgd": {"kind": "sgd"},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_killed_run_goes_on_bit_for_bit(configure, tmp_path, monkeypatch, name):
    def config(folder):
        surge = SurgeConfig(
            collapse_on=["every", "entropy_above"],
            surge_on=["every", "plateau"],
            collapse_every=3,
            surge_every=6,
            cosine=True,
            entropy_layers=["1"],
            entropy_above=0.999,
            plateau_patience=4,
        )
        return configure(
            **EVERYTHING,
            run_dir=tmp_path / folder,
            optimizer=OptimizerConfig(**OPTIMIZERS[name]),
            surge=surge,
            reduce_lr=ReduceConfig(factor=0.5, patience=1, min_delta=0.2),
        )

    whole = train(config("whole"))
    assert {line["step"] for line in split(whole, "surge")} >= {3, 6, 9, 12}
    for parts in (1, 11, 9):  # before a checkpoint, in an accumulation, and after another checkpoint
        with monkeypatch.context() as patch:
            stop_after(patch, parts)
            with pytest.raises(StopError):
                train(config("broken"))
    assert_same(train(config("broken")), whole)


def test_more_steps_go_on_where_fewer_ended(configure, tmp_path):
    whole = train(configure(run_dir=tmp_path / "whole"))
    short = train(configure(run_dir=tmp_path / "short", steps=8))
    assert train(configure(run_dir=tmp_path / "short", steps=12)) == short
    assert [line for line in metrics(short) if line["step"] == 12] == [
        line for line in metrics(whole) if line["step"] == 12
    ]
    with pytest.raises(ConfigError, match="`steps` must be at least the 12"):
        train(configure(run_dir=tmp_path / "short", steps=8))
    with pytest.raises(ConfigError, match="`resume` needs the configuration"):
        train(configure(run_dir=tmp_path / "short", steps=16, schedule="cosine"))


def test_a_schedule_counts_the_steps_of_the_run_and_sparsity_holds(configure):
    """Three steps an epoch: a trigger that counted within epochs would never fire."""
    config = configure(
        full_batch=False,
        batch_size=16,
        steps=20,
        save_every=1,
        keep_last=99,
        optimizer=OptimizerConfig(kind="ortho_adamw"),
        surge=SurgeConfig(collapse_on=["every"], surge_on=["every"], collapse_every=5, surge_every=10),
    )
    run = train(config)
    events = split(run, "surge")
    assert [(e["step"], e["collapsed"], e["surged"]) for e in events] == [
        (5, True, False),
        (10, True, True),
        (15, True, False),
        (20, True, True),
    ]
    assert events[0]["density"] == pytest.approx(0.5, abs=0.01)

    def zeros(step):
        saved = load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        return {name: weight == 0 for name, weight in saved.items()}

    assert not any(mask.any() for mask in zeros(4).values())
    dropped = zeros(5)
    for step in range(6, 10):  # the moments of the optimizer do not bring them back
        assert all(torch.equal(mask, dropped[name]) for name, mask in zeros(step).items())
    # What collapses at step 10 is not what surges at step 10.
    after = zeros(10)
    assert not any((after[name] & dropped[name]).any() for name in after)
    assert sum(int(mask.sum()) for mask in after.values()) == events[1]["dropped"] > 0
    assert events[1]["regrown"] == sum(int(mask.sum()) for mask in dropped.values())


def test_losses_are_what_they_are_called(configure, tmp_path):
    logged = {}
    for loss in ("softmax", "residual", "stablemax"):
        run = train(configure(run_dir=tmp_path / loss, loss=loss, steps=1, log_every=1))
        logged[loss] = split(run, "train")[0]["loss"]
    seed_everything(0)
    task = ClassificationTask(configure(), Accelerator(cpu=True))
    inputs, targets = task.loader.rows
    logits = task.model(inputs).double().detach()
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    stablemax = -(s / s.sum(-1, keepdim=True)).log().gather(1, targets[:, None]).mean()
    softmax = torch.nn.functional.cross_entropy(logits, targets)
    assert logged["stablemax"] == pytest.approx(float(stablemax), rel=1e-6)
    assert logged["softmax"] == pytest.approx(float(softmax), rel=1e-6)
    assert logged["residual"] == pytest.approx(float(softmax), rel=1e-6)
    assert abs(float(stablemax - softmax)) > 10 * 1e-6 * float(softmax)


def test_early_stopping_ends_the_run_for_good(configure):
    config = configure(
        task="sparse_parity",
        parity_bits=1,
        noise_bits=4,
        samples=32,
        train_fraction=0.5,
        steps=400,
        eval_every=5,
        save_every=0,
        log_every=5,
        stop=StopConfig(metric="accuracy", at=1.0),
    )
    run = train(config)
    lines = metrics(run)
    last = split(run, "val")[-1]
    assert last["accuracy"] == last["f1"] == last["precision"] == last["recall"] == 1.0
    assert lines[-1]["step"] == last["step"] < 400
    assert (run / "checkpoints" / "last").resolve().name == f"step-{last['step']:08d}"
    train(config)
    assert metrics(run) == lines


def test_patience_counts_validations(configure):
    run = train(configure(steps=40, stop=StopConfig(patience=2, min_delta=1e6)))
    assert [line["step"] for line in split(run, "val")] == [4, 8, 12]  # the first is better than none


def test_the_learning_rate_falls_on_a_plateau(configure):
    reduce_lr = ReduceConfig(factor=0.5, patience=1, min_delta=1e6, min_lr=2e-3)
    run = train(configure(steps=20, log_every=1, reduce_lr=reduce_lr))
    rates = [line["lr"] for line in split(run, "train")]
    assert rates == pytest.approx([1e-2] * 8 + [5e-3] * 4 + [2.5e-3] * 4 + [2e-3] * 4)


def test_what_is_logged(configure):
    surge = SurgeConfig(collapse_on=["entropy_above"], entropy_layers=["1"], entropy_above=1.0)
    run = train(configure(trackers=["tensorboard"], surge=surge, log_every=4))
    training, validation = split(run, "train")[-1], split(run, "val")[-1]
    assert {"loss", "target_entropy", "activation_entropy", "grad_norm", "lr", "tokens"} <= training.keys()
    assert 0.5 < training["activation_entropy"] <= 1
    assert 2 < training["target_entropy"] <= torch.tensor(11.0).log().item() + 1e-9
    assert {"loss", "accuracy", "precision", "recall", "f1", "entropy", "max_prob"} <= validation.keys()
    assert {"train_loss", "train_accuracy", "train_zero_loss"} <= validation.keys()
    assert split(run, "surge") == []  # a share of ln width is never above 1
    assert training["tokens"] == 12 * 48
    assert list((run / "tensorboard").iterdir())


@pytest.mark.parametrize("task", ["subtract", "multiply"])
def test_other_tasks_and_the_transformer(configure, task):
    run = train(configure(task=task, model="transformer", model_args={"width": 8, "heads": 2}, steps=3, eval_every=0))
    assert len(split(run, "val")) == 1


def test_language(tmp_path, configure):
    data = write_documents(tmp_path / "d")
    config = configure(
        task="language",
        data=data,
        val_fraction=0.2,
        model="micro",
        model_args=TINY_MODEL,
        batch_size=4,
        accumulation=2,
        steps=4,
        loss="stablemax",
        log_every=2,
        surge=SurgeConfig(collapse_on=["every"], collapse_every=2),
        optimizer=OptimizerConfig(kind="ortho_adamw"),
    )
    run = train(config)
    assert [event["step"] for event in split(run, "surge")] == [2, 4]
    last = split(run, "val")[-1]
    assert 0 < last["entropy"] < 5
    embedding = weights(run)["transformer.wte.weight"]
    assert (embedding != 0).all()  # embeddings are left alone


def test_quick_test_meets_every_feature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = SurgeCollapseConfig.from_yaml(CONFIGS / "quick_test.yaml")
    config.to_yaml(tmp_path / "again.yaml")
    assert SurgeCollapseConfig.from_yaml(tmp_path / "again.yaml") == config
    config.steps, config.eval_every, config.generate_every = 20, 10, 20
    config.eval_chunks, config.trackers = 8, []
    config.run_dir = tmp_path / "run"
    run = train(config)
    reasons = {reason for event in split(run, "surge") for reason in event["reasons"]}
    assert "Every" in reasons
    last = split(run, "train")[-1]
    assert last["loss"] == pytest.approx(last["cross_entropy"] + 0.001 * last["entropy"], rel=1e-5)
    assert last["perplexity"] == pytest.approx(math.exp(last["cross_entropy"]))
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [(20, "def "), (20, "The ")]


@pytest.mark.parametrize("name", ["default", "grokking", "sparse_parity", "surge", "transformer"])
def test_configurations_that_come_with_it(name):
    config = SurgeCollapseConfig.from_yaml(CONFIGS / f"{name}.yaml")
    assert ClassificationTask(config, Accelerator(cpu=True)).steps == config.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "multiply", "modulus": 100},
            r"`modulus` must be prime .*, got 100\n\nThe nearest primes are 97 and 101",
        ),
        ({"modulus": 1}, "`modulus` must be >= 2, got 1"),
        ({"train_fraction": 1.0}, r"`train_fraction` must be within \(0, 1\), got 1.0"),
        ({"penalty": "neg_entropy"}, "`penalty` needs loss=residual, got loss=softmax"),
        ({"task": "language"}, "`data` must be given for task=language"),
        ({"task": "language", "data": "x"}, "`model` must be a language model for task=language, got 'mlp'"),
        ({"model": "micro"}, "`model` must be one of mlp, transformer for task=add, got 'micro'"),
        ({"steps": None, "tokens": 5}, "`tokens` is a budget of task=language only"),
        ({"generate_every": 5}, "`generate_every` is of use for task=language only"),
        ({"task": "sparse_parity", "noise_bits": 2}, r"`samples` must be at most 2\^5"),
        ({"loss": "sotfmax"}, "`loss` must be one of softmax, residual, stablemax, got 'sotfmax'"),
        ({"eval_every": 0, "stop": StopConfig(patience=1)}, "`eval_every` must be >= 1 for `stop`"),
    ],
    ids=str,
)
def test_keys_are_checked(configure, changes, message):
    with pytest.raises(ValueError, match=message):
        configure(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 500}, "`warmup_steps` must be shorter than the run of 12 steps, got 500"),
        ({"train_fraction": 0.001}, "`train_fraction` = 0.001 of 121 rows leaves 0 to train on"),
        ({"full_batch": False, "batch_size": 100}, "`batch_size` x `accumulation` takes 100 rows a step"),
        ({"accumulation": 49}, "`accumulation` must leave a row to each"),
        ({"surge": SurgeConfig(collapse_on=["every"])}, "`surge.collapse_every` would first fire at step 100"),
        (
            {"surge": SurgeConfig(collapse_on=["entropy_below"], entropy_layers=["layer9"])},
            r"`surge`: `layers` must name modules, got \['layer9'\]",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_at_the_start(configure, changes, message):
    config = configure(**changes)
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert metrics(config.run_dir) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depth": 3}, "`model_args` has no field 'depth' for 'mlp'\n\nIts fields are width, layers"),
        ({"width": 0}, "`model_args.width` must be a whole number >= 1, got 0"),
    ],
)
def test_model_args_are_checked(configure, keys, message):
    with pytest.raises(ValueError, match=message):
        train(configure(model_args=keys))
