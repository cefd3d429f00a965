import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fluxcore.trainers.ergodic import CONFIGS, Config, app, train
from hydra import compose, initialize_config_dir
from support.component_data import CHUNK_TOKENS, COMPONENTS, VOCAB_SIZE, write_components
from support.trainer_processes import assert_alike, train_in_two
from support.trainer_runs import TINY_MODEL, assert_same, killed_at, split
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

import fluxcore.data
from fluxcore.data.tokenizer import Tokenizer
from fluxcore.training.config import ConfigError, build, register
from fluxcore.training.ergodic_config import DatasetConfig
from fluxcore.training.ergodic_data import component_of_chunks, open_components
from fluxcore.training.launch import launch
from fluxcore.training.models import load_model
from fluxcore.training.split import document_keys


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_components(tmp_path_factory.mktemp("data") / "d")


@pytest.fixture
def configure(data, tmp_path):
    def configure(dataset=None, **changes):
        of_data = {"shards": data, "chunk_tokens": CHUNK_TOKENS, "val_fraction": 0.3, "eval_windows": 10}
        settings = {
            "dataset": DatasetConfig(**{**of_data, **(dataset or {})}),
            "k": 2,
            "budget_tokens": 6 * 8 * CHUNK_TOKENS,
            "model_args": TINY_MODEL,
            "batch_size": 4,
            "accumulation": 2,
            "lr": 1e-2,
            "warmup_steps": 2,
            "log_every": 1,
            "eval_every": 3,
            "save_every": 2,
            "trackers": [],
            "run_dir": tmp_path / "run",
        }
        return Config(**{**settings, **changes})

    return configure


def opened(config):
    return open_components(config, Accelerator(cpu=True))


def chunks_by_component(found):
    numbers = found.data.ds.column("source")[found.data.plan.chunk_ids]
    return {
        name: set(found.data.plan.chunk_ids[numbers == found.data.ds.sources.index(name)].tolist())
        for name in found.subset
    }


@pytest.mark.parametrize("passes", [1, 2])
def test_with_a_constant_total_only_the_number_of_components_differs(configure, passes):
    runs = [opened(configure(k=k, chain=1, seed=k, passes=passes)) for k in range(1, 5)]
    shares = [chunks_by_component(run) for run in runs]
    assert {run.data.plan.steps for run in runs} == {6}
    assert {run.data.plan.epochs for run in runs} == {passes}
    assert {len(run.data.plan.chunk_ids) for run in runs} == {48 // passes}
    for k, (run, share) in enumerate(zip(runs, shares, strict=True), start=1):
        sizes = [len(chunks) for chunks in share.values()]
        assert len(sizes) == k
        assert max(sizes) - min(sizes) <= 1
        assert run.subset == runs[-1].subset[:k]  # nested
        assert share[run.subset[0]] <= shares[0][run.subset[0]]
        # The same windows for every K and seed, of documents that do not train.
        window = run.windows[run.subset[0]].chunk_ids
        assert window.tolist() == runs[0].windows[run.subset[0]].chunk_ids.tolist()
        keys = document_keys(run.data.ds, 0)
        for windows in run.windows.values():
            assert not set(keys[windows.chunk_ids]) & set(keys[run.data.plan.chunk_ids])


def test_with_a_constant_share_each_component_keeps_its_tokens(configure):
    changes = {"design": "constant_per_component", "budget_tokens": 128, "warmup_steps": 0, "eval_every": 0}
    runs = [opened(configure(k=k, **changes)) for k in (1, 2, 4)]
    assert [run.data.plan.steps for run in runs] == [2, 4, 8]
    shares = [chunks_by_component(run) for run in runs]
    assert shares[0].items() <= shares[1].items() <= shares[2].items()


def test_each_component_is_first_in_one_chain(configure):
    firsts = [opened(configure(k=1, chain=chain)).subset for chain in range(4)]
    assert sorted(name for (name,) in firsts) == sorted(COMPONENTS)
    assert opened(configure(subset=["gamma", "alpha"])).subset == ["gamma", "alpha"]


def test_shuffled_labels_keep_documents_whole_and_components_as_large(configure):
    config = configure(labels="shuffled")
    found = opened(config)
    ds, halves = found.data.ds, [np.arange(0, 200), np.arange(200, len(found.data.ds))]
    true = ds.column("source").astype(int)
    shuffled = component_of_chunks(ds, config, halves)
    assert (shuffled != true).mean() > 0.5
    keys = document_keys(ds, 0)
    for half in halves:
        documents = {key: set(shuffled[half][keys[half] == key].tolist()) for key in np.unique(keys[half])}
        assert all(len(labels) == 1 for labels in documents.values())
        first = np.unique(keys[half], return_index=True)[1]
        assert np.bincount(true[half][first]).tolist() == np.bincount(shuffled[half][first]).tolist()


def test_profiles_are_the_losses_at_each_position(configure):
    run = train(configure())
    model = load_model(run / "checkpoints" / "last", vocab_size=VOCAB_SIZE, context=CHUNK_TOKENS).double().eval()
    found = opened(configure())
    (about,) = split(run, "run")
    assert (about["k"], about["subset"], about["total_tokens"]) == (2, found.subset, 384)
    profiles = {line["component"]: line["xe"] for line in split(run, "profile")}
    assert list(profiles) == found.subset
    for name, windows in found.windows.items():
        tokens = torch.from_numpy(found.data.ds.gather(windows.chunk_ids, out="int64")[0])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        expected = losses.view(len(tokens), -1).mean(0)
        assert profiles[name] == pytest.approx(expected.tolist(), rel=1e-5)
        assert split(run, "val")[-1][f"xe/{name}"] == pytest.approx(expected.mean().item(), rel=1e-5)


def test_a_killed_run_goes_on_bit_for_bit(configure, tmp_path, monkeypatch):
    whole = train(configure(run_dir=tmp_path / "whole"))
    with killed_at(monkeypatch, 5):
        train(configure())
    assert_same(train(configure()), whole)


@pytest.mark.usefixtures("users_algorithms")
def test_two_processes_train_as_one(configure, tmp_path):
    changes = {"model_args": {**TINY_MODEL, "resid_pdrop": 0.0}, "lr": 1e-3, "dataset": {"eval_windows": 9}}
    one = train(configure(**changes, run_dir=tmp_path / "one"))
    two = train_in_two("fluxcore.trainers.ergodic", configure(**changes, run_dir=tmp_path / "two"))
    assert_alike(one, two, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 6}, "`warmup_steps` must be shorter than the run of 6 steps, got 6"),
        ({"eval_every": 7}, "`eval_every` must be at most the 6 steps of the run, got 7"),
        ({"k": 5}, "`k` must be at most the 4 components, got 5"),
        ({"chain": 4}, "`chain` must be below the 4 components, got 4"),
        ({"subset": ["alpha", "omega"]}, "`subset` must be different ones of alpha, beta, gamma, delta"),
        ({"k": 1, "budget_tokens": 64 * 200}, r"component '\w+' has \d+ tokens to train on, fewer than"),
        ({"budget_tokens": 8}, "`budget_tokens` must be enough for a step a pass, got 8"),
        ({"steps": 10}, "`steps` is no budget of this trainer"),
        ({"model_args": {**TINY_MODEL, "n_positions": 4}}, "reads 4 tokens at most, and a sequence has 8"),
        ({"training": {"bach_size": 4}}, "`training.bach_size` is no key"),
        ({"dataset": {"chunk_tokens": 16}, "budget_tokens": 6 * 8 * 16}, "`dataset.chunk_tokens` must be 8"),
        ({"dataset": {"num_top_categories": 1}}, "`k` must be at most the 1 components, got 2"),
        ({"dataset": {"val_fraction": 1e-9}}, "`val_fraction`"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_at_the_start(configure, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(configure(**changes))
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": None}, "one of `dataset.sources`, `dataset.shards` and `dataset.hdf5` must be given, got none"),
        ({"sources": ["/x"]}, "must be given, got sources and shards"),
        ({"label_column": "label"}, "`dataset.label_column` goes with a single `hub:` source"),
        ({"categories": ["a"]}, r"`dataset.categories` goes with `dataset.label_column`, got \['a'\] alone"),
        ({"chunk_tokens": 1}, "`dataset.chunk_tokens` must be >= 2, got 1"),
    ],
)
def test_data_that_is_not_said_clearly(configure, changes, message):
    with pytest.raises(ValueError, match=message):
        configure(dataset=changes)


def test_too_many_components_are_refused_before_the_data_is_read(configure):
    with pytest.raises(ConfigError, match="`k` must be at most the 2 components, got 3"):
        configure(dataset={"shards": None, "sources": ["/a", "/b"]}, k=3)


def test_groups_and_overrides(tmp_path):
    register(Config)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        full = build(Config, compose("default"))
        changed = build(
            Config,
            compose(
                "default",
                [
                    *("dataset=arxiv", "dataset.num_top_categories=3", "training.batch_size=64", "training=grid"),
                    *("k=3", "lr=2e-3", "training.weight_decay=0"),
                ],
            ),
        )
        build(Config, compose("quick_test"))
        build(Config, compose("grid", ["dataset=folders", "dataset.sources=[/a,/b]", "k=2", "labels=own"]))
    assert full.run_steps() == 980
    assert (full.batch_size * full.accumulation, full.total_tokens()) == (512, 50_176_000)
    assert (changed.batch_size, changed.dataset.num_top_categories, changed.lr) == (64, 3, 2e-3)
    assert (changed.weight_decay, changed.warmup_steps) == (0.0, 8)
    changed.to_yaml(tmp_path / "saved.yaml")
    assert Config.from_yaml(tmp_path / "saved.yaml") == changed


def test_text_becomes_components(configure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, word in (("sea", "wave"), ("land", "stone"), ("air", "wind")):
        (tmp_path / name).mkdir()
        text = "".join(f"The {word} {i}.\n\n" for i in range(600 if name == "air" else 900))
        (tmp_path / name / "a.txt").write_text(text)
    dataset = {"shards": None, "sources": ["sea", "land", "air"], "part_bytes": 100, "vocab_size": 300}
    with pytest.raises(ValueError, match="reads 4 tokens at most, and a sequence has 8"):
        train(configure(dataset=dataset, model_args={"n_positions": 4}))
    assert not (tmp_path / "outputs").exists()  # said before any text is tokenised
    found = opened(configure(dataset={**dataset, "num_top_categories": 2}))
    assert sorted(found.subset) == ["land", "sea"]
    assert (found.data.ds.column("valid_len") == CHUNK_TOKENS).all()
    assert "[MASK]" in found.data.tokenizer.read_text()
    again = configure(dataset={**dataset, "eval_windows": 3})
    assert opened(again).data.ds.uuid == found.data.ds.uuid


def test_categories_of_papers_become_components(tmp_path, monkeypatch):
    """As `dataset=arxiv` reads them from the hub, for which a folder of the same layout stands."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = ["math.AC", "cs.CV", "cs.AI", "cs.SY", "math.GR", "cs.CE", "cs.PL", "cs.IT", "cs.DS", "cs.NE", "math.ST"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {
        "text": [f"On {names[i % 11]}. " + f"Lemma {i} of {names[i % 11]} holds.\n\n" * 9 for i in range(220)],
        "label": [i % 11 for i in range(220)],
    }
    (tmp_path / "papers" / "no_ref" / "train").mkdir(parents=True)
    path = tmp_path / "papers" / "no_ref" / "train" / "0000.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    register(Config)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = ["dataset=arxiv", "training=grid", "model=tiny", "k=3", "budget_tokens=1600", "warmup_steps=0"]
        config = build(Config, compose("default", [*overrides, f"dataset.cache={tmp_path / 'made'}"]))
    config.dataset.hub = [replace(config.dataset.hub[0], path=str(tmp_path / "papers"), revision=None)]
    config.dataset.vocab_size, config.dataset.chunk_tokens, config.dataset.val_fraction = 400, 20, 0.2
    found = opened(config)
    assert sorted(found.data.ds.sources) == ["cs.DS", "cs.IT", "cs.PL", "math.GR", "math.ST"]
    tokenizer = Tokenizer.load(found.data.tokenizer)
    for name, windows in found.windows.items():
        assert name in tokenizer.decode(found.data.ds[windows.chunk_ids[0]].tolist())


def test_a_grid_is_trained_and_reported(configure, data, tmp_path, monkeypatch, capsys):
    config = configure(log_every=6, eval_every=0, save_every=0)
    config.to_yaml(tmp_path / "default.yaml")
    text = (tmp_path / "default.yaml").read_text()
    (tmp_path / "default.yaml").write_text("defaults: [ergodic_schema, _self_]\n" + text)
    arguments = ["--multirun", "k=1,2,4", "seed=0,1", f"run_dir={tmp_path / 'grid'}"]
    monkeypatch.setattr(sys, "argv", ["ergodic", *arguments])
    launch(Config, train, tmp_path)
    assert capsys.readouterr().out.count("trained for 6 steps") == 6
    result = CliRunner().invoke(app, ["report", str(tmp_path / "grid"), "--plots", str(tmp_path / "plots")])
    assert result.stdout.startswith("6 runs in"), result.output
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4

    monkeypatch.setattr(sys, "argv", ["ergodic", "--multirun", "k=1,9", f"run_dir={tmp_path / 'other'}"])
    with pytest.raises(SystemExit):
        launch(Config, train, tmp_path)


def test_an_hdf5_file_is_written_inspected_and_read(configure, data, tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    fluxcore.data.export(data, tmp_path / "h5", format="hdf5")
    path = tmp_path / "h5" / "chunks.h5"
    shown = CliRunner().invoke(app, ["inspect", str(path)]).stdout
    assert shown.startswith(f"{path}: chunks of 8 tokens")
    assert "| alpha | 60 |" in shown
    found = opened(configure(dataset={"shards": None, "hdf5": path}))
    assert found.subset == opened(configure()).subset
    assert chunks_by_component(found) == chunks_by_component(opened(configure()))
