import math
from pathlib import Path

import datasets
import pytest
import torch
from fluxcore.trainers import sharpness
from fluxcore.trainers.sharpness import CONFIGS, Config, train
from hydra import compose, initialize_config_dir
from support.token_data import VOCAB_SIZE, write_documents
from support.trainer_processes import assert_alike, train_in_two
from support.trainer_runs import TINY_MODEL, assert_same, killed_at, split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy

import fluxcore.data
from fluxcore.training import sharpness_loss
from fluxcore.training.config import ConfigError, build, register
from fluxcore.training.models import load_model
from fluxcore.training.split import split_by_document
from fluxcore.training.text_data import TextConfig

PENALTIES = ["non_max_sum", "neg_entropy", "neg_max_prob", "top_k_mass"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("data") / "d", documents=60)


@pytest.fixture
def configure(data, tmp_path):
    def configure(**changes):
        settings = {
            "data": data,
            "val_fraction": 0.2,
            "penalty": "neg_entropy",
            "penalty_weight": 0.3,
            "model": "micro",
            "model_args": TINY_MODEL,
            "seq": 16,
            "batch_size": 4,
            "accumulation": 2,
            "steps": 6,
            "lr": 1e-2,
            "warmup_steps": 2,
            "log_every": 1,
            "eval_every": 3,
            "save_every": 2,
            "generate_every": 0,
            "trackers": [],
            "run_dir": tmp_path / "run",
        }
        return Config(**{**settings, **changes})

    return configure


def penalty_of(logits, kind, k):
    """As the seed defines them, from probabilities."""
    p = logits.softmax(-1)
    top = p.max(-1).values
    return {
        "non_max_sum": 1 - top,
        "neg_entropy": -(p * p.log()).sum(-1),
        "neg_max_prob": -top,
        "top_k_mass": 1 - p.topk(k, -1).values.sum(-1),
    }[kind]


@pytest.mark.parametrize("positions", ["all_but_last", "all"])
@pytest.mark.parametrize("kind", PENALTIES)
def test_the_first_step_is_cross_entropy_and_the_mean_penalty(configure, monkeypatch, kind, positions):
    calls, batches, grads = [], [], []
    fused, prepare = sharpness_loss.linear_cross_entropy, sharpness.Run.prepare

    def counted(hidden, *arguments, **options):
        calls.append(torch.is_grad_enabled())
        return fused(hidden, *arguments, **options)

    class Recording(fluxcore.data.Loader):
        def __iter__(self):
            for batch in super().__iter__():
                batches.append(batch[:2])
                yield batch

    def watched(self, model, optimizer):
        prepared = prepare(self, model, optimizer)
        optimizer.register_step_pre_hook(
            lambda *_: grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
        )
        return prepared

    monkeypatch.setattr(sharpness_loss, "linear_cross_entropy", counted)
    monkeypatch.setattr("fluxcore.training.training_data.Loader", Recording)
    monkeypatch.setattr(sharpness.Run, "prepare", watched)
    config = configure(
        *(), penalty=kind, penalty_k=3, penalty_positions=positions, steps=1, warmup_steps=0, eval_every=0,
        grad_clip=0.0, model_args={**TINY_MODEL, "resid_pdrop": 0.0},
    )  # fmt: skip
    (line,) = split(train(config), "train")
    assert calls.count(True) == config.accumulation

    torch.manual_seed(config.seed)
    model = load_model("micro", vocab_size=VOCAB_SIZE, context=16, overrides=config.model_args).double()
    ((tokens, targets),) = batches
    logits = model(input_ids=tokens).logits
    mask = targets != -100
    if positions == "all_but_last":
        mask[:, -1] = False
    penalty = penalty_of(logits, kind, 3)[mask].mean()
    likelihood = cross_entropy(logits.flatten(0, 1), targets.flatten())
    (likelihood + 0.3 * penalty).backward()
    assert line["cross_entropy"] == pytest.approx(likelihood.item(), rel=1e-6)
    assert line["penalty"] == pytest.approx(penalty.item(), rel=1e-5)
    assert line["loss"] == pytest.approx((likelihood + 0.3 * penalty).item(), rel=1e-6)
    assert line["perplexity"] == pytest.approx(math.exp(line["cross_entropy"]))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[0][name].double(), parameter.grad, rtol=1e-4, atol=1e-7)


def test_validation_is_what_its_definition_says(configure, data):
    run = train(configure())
    last = split(run, "val")[-1]
    ds = fluxcore.data.open(data)
    _, held_out = split_by_document(ds, 0.2, 0)
    tokens, targets = (torch.from_numpy(each) for each in ds.gather(held_out, out="int64"))
    model = load_model(run / "checkpoints" / "last", vocab_size=VOCAB_SIZE, context=16).double().eval()
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    counted = targets != -100
    mask = counted.clone()
    mask[:, -1] = False
    p = logits.softmax(-1)
    top, guess = (each[counted] for each in p.max(-1))
    right = (guess == targets[counted]).double()
    error = 0.0
    for low in range(15):
        inside = (top * 15).long().clamp(max=14) == low
        if inside.any():
            error += inside.double().mean() * (top[inside].mean() - right[inside].mean()).abs()
    likelihood = cross_entropy(logits.flatten(0, 1), targets.flatten())
    penalty = penalty_of(logits, "neg_entropy", 1)
    expected = {
        "cross_entropy": likelihood,
        "perplexity": likelihood.exp(),
        "penalty": penalty[mask].mean(),
        "entropy": penalty[counted].mean(),
        "loss": likelihood + 0.3 * penalty[mask].mean(),
        "max_prob": top.mean(),
        "accuracy": right.mean(),
        "calibration_error": error,
        "val_tokens": counted.sum(),
    }
    assert {name: last[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-5
    )


def test_a_killed_run_goes_on_bit_for_bit(configure, tmp_path, monkeypatch):
    whole = train(configure(run_dir=tmp_path / "whole"))
    with killed_at(monkeypatch, 5):
        train(configure())
    assert_same(train(configure()), whole)


@pytest.mark.usefixtures("users_algorithms")
def test_two_processes_train_as_one(configure, tmp_path):
    changes = {"model_args": {**TINY_MODEL, "resid_pdrop": 0.0}, "lr": 1e-3}
    one = train(configure(**changes, run_dir=tmp_path / "one"))
    two = train_in_two("fluxcore.trainers.sharpness", configure(**changes, run_dir=tmp_path / "two"))
    assert_alike(one, two, rel=1e-5)


def test_without_a_penalty_and_with_one_of_weight_0_the_run_is_the_same(configure, tmp_path):
    baseline = train(configure(penalty=None, run_dir=tmp_path / "none"))
    zero = train(configure(penalty_weight=0.0, run_dir=tmp_path / "zero"))
    for ours, theirs in zip(split(baseline, "train"), split(zero, "train"), strict=True):
        assert "penalty" not in ours
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 6}, "`warmup_steps` must be shorter than the run of 6 steps, got 6"),
        ({"eval_every": 7}, "`eval_every` must be at most the 6 steps of the run, got 7"),
        ({"steps": None, "epochs": 1, "warmup_steps": 50}, "`warmup_steps` must be shorter than the run of"),
        ({"steps": None, "epochs": 1, "eval_every": 500}, "`eval_every` must be at most the"),
        ({"data": None}, "one of `data` and `text.sources` must be given"),
        ({"penalty": "sharp"}, "`penalty` must be one of non_max_sum, neg_entropy, neg_max_prob, top_k_mass"),
        ({"penalty_weight": math.nan}, "`coef` must be finite, got nan"),
        ({"penalty": "top_k_mass", "penalty_k": 0}, "`k` must be >= 1"),
        ({"model_args": {**TINY_MODEL, "n_positions": 8}}, "reads 8 tokens at most, and a sequence has 16"),
    ],
)
def test_bad_input_is_refused_at_the_start(configure, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(configure(**changes))
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_named_configurations(path, tmp_path):
    register(Config)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = any(key in path.read_text() for key in ("\ndata:", "\ntext:"))
        overrides = [] if given else ["data=/x"]
        config = build(Config, compose(path.stem, overrides))
    config.to_yaml(tmp_path / "saved.yaml")
    assert Config.from_yaml(tmp_path / "saved.yaml") == config


def test_the_defaults_are_those_of_the_experiment():
    config = Config(data=Path("/x"))
    batch = (config.seq, config.batch_size, config.accumulation)
    assert batch == (1024, 8, 4)
    assert (config.lr, config.weight_decay, config.betas, config.min_lr_ratio) == (6e-4, 0.1, [0.9, 0.95], 0.1)
    assert (config.warmup_steps, config.grad_clip, config.penalty_weight, config.penalty_k) == (500, 1.0, 0.01, 5)
    assert (config.log_every, config.eval_every, config.save_every, config.generate_every) == (10, 500, 1000, 500)
    assert (len(config.prompts), config.sample_tokens, config.top_p) == (3, 100, 0.9)


def test_text_is_tokenised_once_and_held_out_in_part(configure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = tmp_path / "book.txt"
    book.write_text("".join(f"Speaker {i % 7}:\nWe said {i} words.\n\n" for i in range(400)))
    text = TextConfig(sources=[str(book)], part_bytes=200, vocab_size=300)
    changes = {"data": None, "text": text, "generate_every": 6, "prompts": ["We"], "sample_tokens": 4}
    with pytest.raises(ValueError, match="reads 8 tokens at most, and a sequence has 16"):
        train(configure(**changes, model_args={"n_positions": 8}))
    assert not (tmp_path / "outputs").exists()  # said before any text is tokenised
    run = train(configure(**changes, trackers=["tensorboard"]))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    measures = ("loss", "cross_entropy", "penalty", "max_prob", "perplexity", "entropy", "accuracy")
    wanted = {f"{name}/{each}" for name in ("train", "val") for each in measures}
    assert {*events.Tags()["scalars"]} >= wanted | {"train/lr", "train/grad_norm", "val/calibration_error"}
    assert split(run, "val")
    assert "We" in (run / "samples.jsonl").read_text()
    (folder,) = (tmp_path / "outputs" / "data").iterdir()
    before = folder.stat().st_mtime_ns
    assert text.prepare(16) == folder.relative_to(tmp_path)
    assert folder.stat().st_mtime_ns == before
    book.write_text("Another text altogether.\n\n" * 100)
    assert text.prepare(16) != folder.relative_to(tmp_path)


def test_the_large_run_reads_a_data_set_of_the_hub(tmp_path, monkeypatch):
    """A local folder stands for OpenWebText, and a small model for GPT-2."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "web").mkdir()
    rows = {"text": [f"Page {i} of the web.\n" * 5 for i in range(80)]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "web" / "train.parquet")
    small = {
        "text.sources": f"[hub:{tmp_path / 'web'}]", "text.cache": tmp_path, "text.tokenizer": "null",
        "text.vocab_size": 300, "val_fraction": 0.2, "model": "micro", "mixed_precision": "fp32", "seq": 16,
        "batch_size": 4, "accumulation": 1, "steps": 2, "warmup_steps": 0, "eval_every": 0, "generate_every": 0,
        "trackers": "[]", "run_dir": tmp_path / "run",
    }  # fmt: skip
    register(Config)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("openwebtext_full").text.sources == ["hub:Skylion007/openwebtext"]
        config = build(Config, compose("openwebtext_full", [f"{key}={value}" for key, value in small.items()]))
    assert split(train(config), "val")[-1]["cross_entropy"] < math.log(300) + 0.5


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        (["/nowhere"], FileNotFoundError, "/nowhere"),
        (["embedded:verse"], ConfigError, "must be among stdlib, reference, headers, documents, got 'embedded:verse'"),
    ],
)
def test_text_that_is_not_there(sources, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        TextConfig(sources=sources).prepare(16)
