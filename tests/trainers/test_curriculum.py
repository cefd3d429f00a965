from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from fluxcore.trainers import curriculum
from fluxcore.trainers.curriculum import CurriculumConfig, train
from hydra import compose, initialize_config_dir
from support.token_data import SCORE, write_documents
from support.trainer_runs import TINY_MODEL, assert_same, metrics, split

import fluxcore.data
from fluxcore.data import Order
from fluxcore.training.config import ConfigError, build, register
from fluxcore.training.models import load_model
from fluxcore.training.order_config import OrderName
from fluxcore.training.split import split_by_document


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("data") / "d", documents=60)


@pytest.fixture
def configure(data, tmp_path):
    def configure(**changes):
        settings = {
            "data": data,
            "column": SCORE,
            "val_fraction": 0.2,
            "model_args": TINY_MODEL,
            "batch_size": 4,
            "accumulation": 2,
            "epochs": 2,
            "lr": 1e-2,
            "warmup_steps": 2,
            "log_every": 3,
            "eval_every": 5,
            "save_every": 2,
            "trackers": [],
            "run_dir": tmp_path / "run",
        }
        return CurriculumConfig(**{**settings, **changes})

    return configure


class StopError(Exception):
    """The process ends here."""


def stop_after(monkeypatch, micro_batches):
    """Let the forward pass after so many micro-batches fail."""
    measure, done = curriculum.token_sums, 0

    def counted(logits, targets):
        nonlocal done
        if torch.is_grad_enabled():  # not in validation
            if done == micro_batches:
                raise StopError
            done += 1
        return measure(logits, targets)

    monkeypatch.setattr(curriculum, "token_sums", counted)


def seen_chunks(monkeypatch):
    """Chunk ids of every batch of the runs that follow."""
    seen = []

    class Recording(fluxcore.data.Loader):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(batch.meta.chunk_ids.tolist())
                yield batch

    monkeypatch.setattr("fluxcore.training.training_data.Loader", Recording)
    return seen


def test_a_killed_run_goes_on_bit_for_bit(configure, tmp_path, monkeypatch):
    whole = train(configure(run_dir=tmp_path / "whole"))
    steps = metrics(whole)[-1]["step"]
    assert steps % 2 == 0  # two epochs
    per_epoch = steps // 2
    assert per_epoch % 2 == 1  # a checkpoint every second step, so that one is in the last step of neither epoch
    broken = tmp_path / "broken"
    # In the first steps, in the middle of an accumulation, at the end of an epoch and beyond it: in turn, in one run.
    last = 0
    for stop in (1, 6, 2 * per_epoch - last, 2 * per_epoch + 3, 2 * steps - 1):
        done = newest_step(broken)
        with monkeypatch.context() as patch:
            stop_after(patch, stop - 2 * done)
            with pytest.raises(StopError):
                train(configure(run_dir=broken))
    assert train(configure(run_dir=broken)) == broken
    assert_same(broken, whole)


def newest_step(run):
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return int(names[-1].removeprefix("step-")) if names else 0


def test_a_finished_run_is_left_as_it_is(configure):
    run = train(configure())
    before = metrics(run)
    train(configure(log_every=1))
    assert metrics(run) == before


ORDERS = {
    "descending": {},
    "random": {},
    "bucketed": {},
    "jittered": {"window": 8},
    "interleaved": {"strides": 3},
    "paced": {"pacing": "root", "pace_start": 0.3},
    "warm start": {"order": "random", "then": "ascending", "then_at": 0.4},
}


@pytest.mark.parametrize("order", ORDERS)
def test_orders_differ_in_nothing_but_order(configure, tmp_path, monkeypatch, data, order):
    seen = seen_chunks(monkeypatch)
    runs, chunks = {}, {}
    for name in ("ascending", order):
        keys = {"order": name} | ORDERS.get(name, {})
        runs[name] = train(configure(run_dir=tmp_path / name, steps=5, epochs=None, **keys))
        chunks[name] = [chunk for batch in seen for chunk in batch]
        seen.clear()
    assert Counter(chunks["ascending"]) == Counter(chunks[order])
    assert chunks["ascending"] != chunks[order]
    for field in ("step", "tokens", "val_tokens"):
        values = [[line.get(field) for line in metrics(run) if line["step"] == 5] for run in runs.values()]
        assert values[0] == values[1]
    scores = fluxcore.data.open(data).column(SCORE)
    assert (np.diff(scores[chunks["ascending"]]) >= 0).all()


def test_a_part_of_an_epoch_is_the_same_part_for_every_order(configure, tmp_path, monkeypatch):
    """Else `ascending` would train on the simplest chunks only, and `random` on all."""
    seen = seen_chunks(monkeypatch)
    for name in ("ascending", "random"):
        train(configure(run_dir=tmp_path / name, order=OrderName[name], steps=3, epochs=None))
    batches = len(seen) // 2
    assert batches == 3
    assert sorted(chain(*seen[:batches])) == sorted(chain(*seen[batches:]))


def test_training_never_sees_a_held_out_document(configure, monkeypatch, data):
    seen = seen_chunks(monkeypatch)
    train(configure(split_seed=3))
    ds = fluxcore.data.open(data)
    held_out = split_by_document(ds, 0.2, 3)[1]
    source, document = ds.column("source"), ds.column("doc_id")
    trained = {(source[chunk], document[chunk]) for batch in seen for chunk in batch}
    assert trained
    assert not trained & {(source[chunk], document[chunk]) for chunk in held_out}


def test_what_is_logged(configure):
    run = train(configure(eval_every=4, trackers=["tensorboard"]))
    training, validation = split(run, "train"), split(run, "val")
    last = training[-1]
    assert {"loss", "perplexity", "entropy", "max_prob", "score", "lr", "grad_norm", "tokens"} <= last.keys()
    assert validation[-1]["step"] == last["step"]
    assert validation[-1]["tokens"] == last["tokens"]
    assert last["perplexity"] == pytest.approx(np.exp(last["loss"]))
    assert 0 < last["max_prob"] < 1
    assert 0 < last["entropy"] < np.log(64)
    assert training[0]["score"] < training[len(training) // 2 - 1]["score"]  # ascending within the first epoch
    assert validation[-1]["loss"] < validation[0]["loss"] < np.log(64) + 0.2
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "log.txt", "tensorboard"} <= names


def test_the_best_checkpoint_is_a_model_that_loads(configure):
    run = train(configure())
    best = min(split(run, "val"), key=lambda line: line["loss"])["step"]
    assert (run / "checkpoints" / "best").resolve().name == f"step-{best:08d}"
    model = load_model(run / "checkpoints" / "best", vocab_size=64, context=16)
    assert model(input_ids=torch.zeros(1, 16, dtype=torch.int64)).logits.shape == (1, 16, 64)


def test_accumulation_changes_rounding_only(configure, tmp_path):
    model = {**TINY_MODEL, "resid_pdrop": 0.0}
    runs = [
        train(configure(run_dir=tmp_path / str(n), model_args=model, batch_size=8 // n, accumulation=n, lr=1e-3))
        for n in (1, 4)
    ]
    for one, four in zip(*map(metrics, runs), strict=True):
        assert one.keys() == four.keys()
        for key in one.keys() - {"split"}:
            assert one[key] == pytest.approx(four[key], rel=1e-3), key


def test_chunks_are_cut_into_sequences(configure):
    run = train(configure(seq=4))
    assert load_model(run / "checkpoints" / "last", vocab_size=64, context=4).config.n_positions == 4


def test_separate_validation_data(configure, tmp_path):
    other = write_documents(tmp_path / "other", documents=12, seed=9)
    run = train(configure(val_data=other, steps=2, epochs=None, warmup_steps=1))
    targets = fluxcore.data.open(other).gather(np.arange(len(fluxcore.data.open(other))), out="int64")[1]
    assert split(run, "val")[-1]["val_tokens"] == (targets != -100).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": "lm.entropy"}, "`column` must be one of .*lm.entropy_mean.*, got 'lm.entropy'"),
        ({"batch_size": 1000}, "`batch_size` x `accumulation` takes 2000 chunks a step"),
        ({"seq": 5}, "`seq` must divide the chunk length, 16 tokens, got 5"),
        ({"epochs": None, "tokens": 100}, "`tokens` must be at least a step's 128, got 100"),
        ({"warmup_steps": 500}, "`warmup_steps` must be shorter than the run of"),
        ({"val_fraction": 1e-9}, "`val_fraction` = 1e-09 of 60 documents leaves"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_at_the_start(configure, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(configure(**changes))


def test_a_pace_that_would_leave_chunks_unseen_is_refused_at_the_start(configure):
    with pytest.raises(ValueError, match=r"this run would leave .* unseen"):
        train(configure(order="paced", pacing="step", pace_start=0.3, epochs=1))


def test_the_order_that_keys_describe(configure):
    paced = configure(order="paced", pacing="log", pace_start=0.2, pace_full_at=0.7, then="random", then_at=0.8)
    assert paced.make_order() == Order.paced(SCORE, "log", 0.2, 0.7).then(Order.shuffled(), at=0.8)
    control = configure(order="paced", pace_random=True, column=None)
    assert control.make_order() == Order.paced(None, random=True)


def test_samples_without_a_tokenizer(configure):
    with pytest.raises(FileNotFoundError, match="Set tokenizer=PATH"):
        train(configure(generate_every=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": None}, "`column` must name the score for order=ascending"),
        ({"val_fraction": 0.0}, "within \\(0, 1\\)"),
        ({"column": None, "order": "random", "then": "paced"}, "`column` must name the score for order=paced"),
        ({"order": "paced", "pace_start": 0.0}, "`pace_start` must be within"),
        ({"order": "paced", "pace_full_at": 2.0}, "`pace_full_at` must be within"),
        ({"then": "random", "then_at": 1.0}, "`then_at` must be within \\(0, 1\\), got 1.0"),
        ({"order": "jittered", "window": 0}, "`window` must be a whole number of places"),
        ({"order": "interleaved", "strides": 0}, "`strides` must be a whole number of passes"),
        ({"order": "paced", "pacing": "cubic"}, "`pacing` must be one of linear, quadratic, root"),
    ],
    ids=str,
)
def test_keys_are_checked(configure, changes, message):
    with pytest.raises(ValueError, match=message):
        configure(**changes)


def test_configurations_that_come_with_it():
    folder = curriculum.CONFIGS
    quick = CurriculumConfig.from_yaml(folder / "quick_test.yaml")
    assert quick.order is OrderName.ascending
    register(CurriculumConfig)
    orders = {
        "paced": Order.paced(SCORE, "root", 0.1, 0.6),
        "warm_start": Order.shuffled().then(Order.sorted(SCORE), at=0.1),
    }
    for name, order in orders.items():
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = build(CurriculumConfig, compose(name, ["data=folder", f"column={SCORE}"]))
        assert config.make_order() == order
    with pytest.raises(ConfigError, match="`data` must be given"):
        CurriculumConfig.from_yaml(folder / "default.yaml")
