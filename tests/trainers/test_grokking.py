import pytest
import torch
from fluxcore.trainers import grokking
from fluxcore.trainers.grokking import EPS, VARIANTS, Cell, app
from support.trainer_runs import metrics
from typer.testing import CliRunner

from fluxcore.report.markdown import BEGIN, END
from fluxcore.report.runs import WHOLE
from fluxcore.training.grid import locked, open_grid


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the grid in small: modulo 7, eight units, at most 4 steps."""
    threads = torch.get_num_threads()
    original = Cell.configure

    def small(self, folder, steps):
        config = original(self, folder, steps)
        config.modulus, config.model_args = 7, {"width": 8}
        config.eval_every = config.log_every = config.save_every = 2
        config.surge.collapse_every = config.surge.surge_every = 1
        return config

    monkeypatch.setattr(Cell, "configure", small)

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--folder", str(tmp_path / "grid")], catch_exceptions=False)

    yield run
    torch.set_num_threads(threads)


def lines(result):
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def test_a_grid_is_trained_kept_and_extended(command, tmp_path, monkeypatch):
    monkeypatch.setattr(grokking, "VARIANTS", {name: VARIANTS[name] for name in ("ortho", "surge")})
    first = command("run", "--steps", "2", "--seeds", "1")
    assert first.exit_code == 0, first.output
    names = [f"{variant}-eps{eps:.0e}-seed0" for variant in ("ortho", "surge") for eps in EPS]
    assert lines(first) == dict.fromkeys(names, "trained for 2 steps")
    assert set(lines(command("run", "--steps", "2", "--seeds", "1")).values()) == {"kept"}
    (tmp_path / "grid" / names[0] / WHOLE).unlink()  # as after a kill
    again = lines(command("run", "--steps", "4", "--seeds", "2", "--variant", "ortho"))
    assert again == {f"ortho-eps{eps:.0e}-seed{seed}": "trained for 4 steps" for seed in range(2) for eps in EPS}
    assert [line["step"] for line in metrics(tmp_path / "grid" / names[0]) if line["split"] == "val"] == [2, 4]

    page, plot = tmp_path / "page.md", tmp_path / "plot.png"
    page.write_text(f"{BEGIN}\n{END}\n")
    reported = command("report", "--page", str(page), "--plot", str(plot))
    assert reported.stdout.startswith("6 whole runs")
    assert page.read_text().count("\n| ") == 7
    assert plot.exists()


def test_a_failed_run_is_listed_and_the_others_go_on(command, monkeypatch):
    train = grokking.train

    def failing(config):
        if config.optimizer.eps == 1e-8:
            raise RuntimeError("out of memory\nat length")
        return train(config)

    monkeypatch.setattr(grokking, "train", failing)
    result = command("run", "--steps", "2", "--seeds", "1", "--variant", "softmax")
    assert result.exit_code == 1
    assert lines(result) == {
        "softmax-eps1e-08-seed0": "failed, RuntimeError: out of memory",
        "softmax-eps1e-30-seed0": "trained for 2 steps",
    }


def test_two_processes_share_the_grid(command, tmp_path):
    open_grid(tmp_path / "grid", "grokking", {})
    with locked(tmp_path / "grid" / "softmax-eps1e-08-seed0") as free:
        assert free
        result = command("run", "--steps", "2", "--seeds", "1", "--variant", "softmax")
        alone = command("run", "--steps", "2", "--seeds", "1", "--variant", "softmax", "--eps", "1e-30")
    assert lines(alone) == {"softmax-eps1e-30-seed0": "kept"}
    assert lines(result)["softmax-eps1e-08-seed0"] == "left to the process that trains it"
    assert lines(result)["softmax-eps1e-30-seed0"] == "trained for 2 steps"


def test_variants_differ_in_what_they_are_named_after(tmp_path):
    configs = {name: Cell(name, 1e-30, 1).configure(tmp_path, 100).to_dict() for name in VARIANTS}
    plain = configs.pop("softmax")
    assert plain["weight_decay"] == 0
    assert plain["train_fraction"] == 0.4
    changed = {name: {key for key in plain if config[key] != plain[key]} for name, config in configs.items()}
    assert changed == {
        "ortho": {"optimizer", "run_dir"},
        "stablemax": {"loss", "betas", "run_dir"},
        "residual": {"loss", "run_dir"},
        "surge": {"surge", "run_dir"},
    }


def test_an_unknown_variant_is_refused(command):
    result = command("run", "--variant", "orto")
    assert result.exit_code == 1
    assert "`variant` must be one of ortho, stablemax, residual, softmax, surge, got 'orto'" in result.stderr
