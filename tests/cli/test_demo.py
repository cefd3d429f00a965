import email
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from accelerate import Accelerator
from fluxcore.trainers.curriculum import CurriculumConfig
from support.command_line import run, succeeds
from support.html import external_references

import fluxcore.data
from fluxcore.cli.demo import execute
from fluxcore.cli.demo_plan import DemoOrder
from fluxcore.data import Loader
from fluxcore.report.runs import read_run
from fluxcore.training.order_config import OrderName
from fluxcore.training.training_data import open_training_data

ORDERS = ("random", "ascending")
STAGES = ["tokenize", "scorer", "score", "sort", "random-0", "ascending-0", "report"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo on the sources of a package of the standard library: its folder, its options, what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    options = ("demo", "--text", Path(email.__file__).parent, "--size", "mini", "--out", folder)
    return folder, options, succeeds(*options)


def chunks_fed(run_folder, **changes):
    """Ids of the chunks that a run is fed, in their order, from the loader that its configuration describes."""
    config = replace(CurriculumConfig.from_yaml(run_folder / "config.yaml"), **changes)
    data = open_training_data(
        config, Accelerator(cpu=True), config.data, val_path=None, val_fraction=config.val_fraction
    )
    loader = Loader(
        data.ds, config.make_order(), subset=data.plan.chunk_ids,
        epochs=data.plan.epochs, global_batch_size=data.chunks_per_step, seed=config.seed,
    )  # fmt: skip
    batches = [meta.chunk_ids.numpy() for _, _, meta in loader]
    return np.concatenate(batches), set(data.validation.chunk_ids.tolist()), data.ds


def test_every_stage_runs_and_shows_its_command(demo):
    _, _, printed = demo
    assert re.findall(r"^\[\d/7\] (\S+)", printed, re.MULTILINE) == STAGES
    assert printed.count("done in") == 6
    assert "fluxcore tokenize" in printed
    assert "python -m fluxcore.trainers.curriculum" in printed


def test_the_page_needs_nothing_but_itself_and_the_figures_are_there(demo):
    folder, _, printed = demo
    html = (folder / "report.html").read_text()
    assert external_references(html) == []
    assert "Ascending order ends at a validation loss" in html
    assert re.search(r'<span class="h\d" title="[\d.]+ nats">', html)  # text by entropy
    for name in ("loss.png", "fed.png", "distribution.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert name in printed


def test_the_runs_differ_in_nothing_but_the_order(demo):
    folder, _, _ = demo
    random, ascending = (yaml.safe_load((folder / "runs" / f"{o}-0/config.yaml").read_text()) for o in ORDERS)
    assert {key for key in random if random[key] != ascending[key]} == {"order", "run_dir"}


def test_the_runs_see_the_same_chunks_and_tokens_in_another_order(demo):
    folder, _, _ = demo
    runs = [folder / "runs" / f"{order}-0" for order in ORDERS]
    (random, held_out, ds), (ascending, _, _) = map(chunks_fed, runs)
    assert sorted(random) == sorted(ascending)
    assert random.tolist() != ascending.tolist()
    assert not held_out & set(random.tolist())
    scores = ds.column("lm.entropy_mean")
    assert (np.diff(scores[ascending]) >= 0).all()
    assert not (np.diff(scores[random]) >= 0).all()
    random_log, ascending_log = map(read_run, runs)
    # The log counts real tokens as they are trained on: it ends where the chunks that were fed end.
    _, targets = ds.gather(random, out="int64")
    assert random_log.total_tokens == ascending_log.total_tokens == (targets != -100).sum()
    assert random_log.train.tokens.tolist() != ascending_log.train.tokens.tolist()


def test_every_order_of_a_trainer_can_be_compared(demo):
    folder, _, _ = demo
    assert {order.value for order in DemoOrder} == {order.value for order in OrderName}
    run_folder = folder / "runs" / "ascending-0"
    fed = {order: chunks_fed(run_folder, order=OrderName(order.value))[0] for order in DemoOrder}
    assert len({ids.tobytes() for ids in fed.values()}) == len(DemoOrder)
    for ids in fed.values():
        assert sorted(ids) == sorted(fed[DemoOrder.random])


def test_the_scorer_never_saw_the_validation_documents(demo):
    folder, _, _ = demo
    fed, held_out, tokens = chunks_fed(folder / "scorer")
    assert held_out
    assert not held_out & set(fed.tolist())
    ordered = fluxcore.data.open(folder / "sorted")
    _, held_out_of_runs, _ = chunks_fed(folder / "runs" / "random-0")
    documents = {int(tokens.column("doc_id")[chunk]) for chunk in fed}
    assert not documents & {int(ordered.column("doc_id")[chunk]) for chunk in held_out_of_runs}


def test_a_second_run_reuses_every_stage(demo):
    folder, options, _ = demo
    files = [*folder.glob("runs/*/metrics.jsonl"), folder / "sorted" / "manifest.json"]
    before = [file.stat().st_mtime_ns for file in files]
    printed = succeeds(*options)
    assert printed.count("reused") == 6
    assert "done in" not in printed
    assert [file.stat().st_mtime_ns for file in files] == before


def test_the_page_can_be_made_again_from_the_runs_and_the_data_alone(demo, tmp_path):
    folder, _, _ = demo
    runs = sorted((folder / "runs").iterdir())
    printed = succeeds("report", *runs, "--out", tmp_path / "again")
    assert "ascending" in printed
    html = (tmp_path / "again" / "report.html").read_text()
    assert "Ascending order ends at a validation loss" in html
    commit = json.loads((runs[0] / "environment.json").read_text())["commit"]
    assert commit is None or commit in html


def test_a_stage_of_its_own_process_shares_the_cores_and_fails_with_its_code(capfd, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    execute(["python", "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"])
    assert capfd.readouterr().out == "passive\n"
    with pytest.raises(typer.Exit) as ended:
        execute(["python", "-c", "raise SystemExit(1)"])
    assert ended.value.exit_code == 1
    with pytest.raises(ChildProcessError, match="was ended by signal 9"):
        execute(["python", "-c", "import os; os.kill(os.getpid(), 9)"])


def test_text_of_a_file_or_of_the_hub_not_both(tmp_path):
    result = run("demo", "--text", tmp_path, "--dataset", "x/y", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_short_says_so(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"A short text, number {i}. " * 3)
    result = run("demo", "--text", *sorted(tmp_path.glob("*.txt")), "--out", tmp_path / "out", "--size", "mini")
    assert result.exit_code == 1
    assert "the text must have at least 16 chunks" in result.stderr


def test_a_checkout_in_the_working_folder_hides_nothing(tmp_path, monkeypatch):
    package = tmp_path / "fluxcore"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the checkout, not what is installed')")
    monkeypatch.chdir(tmp_path)
    execute(["python", "-m", "fluxcore.trainers.curriculum", "--help"])
