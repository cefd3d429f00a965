import json
import logging
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fluxcore.training.config import ConfigError
from fluxcore.training.run_folder import RunFolder, close_log
from fluxcore.training.tracker import JsonLines, Trackers
from fluxcore.training.trainer_config import TrackerName, TrainerConfig, WandbMode


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def record(step, loss=1.0):
    return {"step": step, "split": "train", "loss": loss}


def test_json_lines_are_strict_json(tmp_path):
    log = JsonLines(tmp_path / "m.jsonl")
    log.write(record(1, math.nan) | {"perplexity": math.inf})
    log.file.close()
    text = (tmp_path / "m.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert lines(tmp_path / "m.jsonl") == [{"step": 1, "split": "train", "loss": None, "perplexity": None}]


def test_a_resumed_log_has_each_step_once(tmp_path):
    path = tmp_path / "m.jsonl"
    log = JsonLines(path)
    for step in (1, 2, 3, 4):
        log.write(record(step))
    log.file.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')  # the process was killed here
    log = JsonLines(path, resume_step=2)
    log.write(record(3, 7.0))
    log.file.close()
    assert lines(path) == [record(1), record(2), record(3, 7.0)]
    JsonLines(path).file.close()
    assert lines(path) == []


def test_tensorboard_hides_what_was_logged_after_the_checkpoint(tmp_path):
    for first, last, loss, resumed in ((1, 4, 1.0, 0), (3, 5, 2.0, 2)):
        trackers = Trackers()
        trackers.open(tmp_path, [TrackerName.tensorboard], project="p", config={}, resume_step=resumed)
        for step in range(first, last + 1):
            trackers.log(record(step, loss))
        trackers.text(last, "sample", "a\n b")
        trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert scalars == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert lines(tmp_path / "samples.jsonl") == [{"step": 5, "prompt": "sample", "text": "a\n b"}]


def test_wandb_reads_dotenv_and_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (tmp_path / ".env").write_text("WANDB_MODE=disabled\nWANDB_PROJECT=from-dotenv\n")
    trackers = Trackers()
    trackers.open(tmp_path, [TrackerName.wandb], project="p", config={"a": 1}, resume_step=0)
    try:
        run = trackers.opened[1].run
        assert run.disabled
        trackers.log(record(1))
        trackers.text(1, "sample", "<b>")
    finally:
        trackers.close()
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert (tmp_path / "wandb_id.txt").read_text() == run.id


def test_wandb_without_a_key_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    trackers = Trackers()
    with pytest.raises(ConfigError, match=r"W&B did not start: .*API key(.|\n)*Set wandb_mode=offline"):
        trackers.open(tmp_path, [TrackerName.wandb], project="p", mode=WandbMode.online, config={}, resume_step=0)
    trackers.close()


def test_run_folder_says_what_ran(tmp_path):
    folder = RunFolder(tmp_path / "run", "t")
    assert not folder.holds_a_run()
    folder.create(TrainerConfig(seed=4))
    assert TrainerConfig.from_yaml(folder.path / "config.yaml").seed == 4
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["versions"]["torch"]
    assert {"python", "command", "commit", "platform"} <= environment.keys()
    handlers = folder.open_log("info")
    logging.getLogger("fluxcore.training").info("a message")
    close_log(handlers)
    logging.getLogger("fluxcore.training").info("too late")
    assert "a message" in folder.log.read_text()
    assert "too late" not in folder.log.read_text()


def test_default_run_folders_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = set()
    for _ in range(3):
        folder = RunFolder(None, "curriculum")
        folder.create(TrainerConfig())
        paths.add(folder.path)
    assert len(paths) == 3
    assert all(path.parts[:2] == ("outputs", "curriculum") for path in paths)


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_log_level(tmp_path, level):
    folder = RunFolder(tmp_path, "t")
    folder.create(TrainerConfig())
    handlers = folder.open_log(level)
    for name in ("debug", "info", "warning"):
        getattr(logging.getLogger("fluxcore.training"), name)("at %s", name)
    close_log(handlers)
    heard = [name for name in ("debug", "info", "warning") if f"at {name}" in folder.log.read_text()]
    assert heard == ["debug", "info", "warning"][["debug", "info", "warning"].index(level) :]
