import json
from dataclasses import replace

import pytest
import torch
from fluxcore.trainers import sharpness_sweep
from fluxcore.trainers.sharpness_sweep import app, configure, settings
from support.token_data import write_documents
from support.trainer_runs import TINY_MODEL
from typer.testing import CliRunner

from fluxcore.report.markdown import BEGIN, END
from fluxcore.report.sharpness import read_sweep
from fluxcore.training.grid import open_grid
from fluxcore.training.task_config import PenaltyName
from fluxcore.training.text_data import TextConfig


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the sweep in small: a tiny model, at most 2 steps."""
    threads = torch.get_num_threads()
    data = write_documents(tmp_path / "data")

    def small(setting, folder, steps):
        config = configure(setting, folder, steps)
        changes = {"data": data, "text": TextConfig(), "model_args": TINY_MODEL, "seq": 16, "batch_size": 4}
        return replace(config, **changes)

    monkeypatch.setattr(sharpness_sweep, "configure", lambda setting, folder, steps: small(setting, folder, 2))
    original = sharpness_sweep.SharpnessConfig.from_yaml

    def from_yaml(path):
        config = original(path)
        config.warmup_steps = config.eval_every = 1
        return config

    monkeypatch.setattr(sharpness_sweep.SharpnessConfig, "from_yaml", from_yaml)

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--folder", str(tmp_path / "sweep")], catch_exceptions=False)

    yield run
    torch.set_num_threads(threads)


def test_the_sweep_is_a_baseline_and_four_penalties_at_three_weights_with_three_seeds():
    every = settings(3, sharpness_sweep.WEIGHTS)
    assert len(every) == len(set(every)) == 39
    assert [seed for _, _, seed in every] == sorted(seed for _, _, seed in every)


def test_a_sweep_is_trained_kept_and_reported(command, tmp_path, monkeypatch):
    every = sharpness_sweep.settings
    monkeypatch.setattr(
        sharpness_sweep,
        "settings",
        lambda *arguments: [each for each in every(*arguments) if each[0] in (None, PenaltyName.top_k_mass)],
    )
    train = sharpness_sweep.train

    def failing(config):
        if config.penalty is not None and config.penalty.name == "top_k_mass" and config.seed == 1:
            raise RuntimeError("out of memory\nat length")
        return train(config)

    with monkeypatch.context() as patch:
        patch.setattr(sharpness_sweep, "train", failing)
        first = command("run", "--seeds", "2", "--weight", "0.1")
    assert first.exit_code == 1
    assert "top_k_mass-0.1-seed1: failed, RuntimeError: out of memory\n" in first.stdout
    assert first.stdout.count(": trained for 2 steps") == 3
    again = command("run", "--seeds", "2", "--weight", "0.1")
    assert again.exit_code == 0
    assert again.stdout.count(": kept") == 3

    baseline, other = read_sweep(tmp_path / "sweep")
    assert (baseline.penalty, other.penalty, other.weight) == ("none", "top_k_mass", 0.1)
    line = json.loads((tmp_path / "sweep" / "none-seed1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert baseline.of("cross_entropy")[1] == line["cross_entropy"]

    page, plot = tmp_path / "page.md", tmp_path / "plot.png"
    page.write_text(f"{BEGIN}\n{END}\n")
    reported = command("report", "--page", str(page), "--plot", str(plot))
    assert reported.stdout.startswith("4 whole runs")
    assert page.read_text().count("\n| ") == 3
    assert plot.stat().st_size > 10_000
    html = (tmp_path / "sweep" / "report.html").read_text()
    assert html.count("<svg") == 4
    assert "http" not in html.replace("http://www.w3.org", "")


def test_the_folder_of_another_experiment_is_refused(command, tmp_path):
    open_grid(tmp_path / "sweep", "grokking", {})
    result = command("run", "--seeds", "1")
    assert result.exit_code == 1
    assert "holds runs of the experiment grokking, and these are of sharpness_sweep" in result.stderr
    assert not list((tmp_path / "sweep").glob("*seed*"))
