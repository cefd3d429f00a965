import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fluxcore.errors import CorruptCheckpointError
from fluxcore.training.checkpoint import Checkpoints, read_checkpoint
from fluxcore.training.config import ConfigError
from fluxcore.training.resume import find_checkpoint
from fluxcore.training.run_folder import RunFolder


def writer(text):
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text(text * 100)
        (folder / "state.bin").write_text(text)

    return write


def save(checkpoints, step, *, best=False, config=None):
    return checkpoints.save(step, writer(f"step {step}"), info={"config": config or {}}, best=best)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_last_and_best_are_kept_and_the_others_pruned(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep_last=2)
    for step in range(1, 6):
        save(checkpoints, step, best=step == 2)
    assert names(tmp_path / "c") == ["best", "last", "step-00000002", "step-00000004", "step-00000005"]
    assert (tmp_path / "c" / "last" / "state.bin").read_text() == "step 5"
    assert (tmp_path / "c" / "best" / "state.bin").read_text() == "step 2"
    newest = checkpoints.newest()
    assert (newest.step, newest.info) == (5, {"config": {}})
    assert read_checkpoint(tmp_path / "c" / "best").step == 2


def test_a_step_can_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    checkpoints.save(1, writer("anew"), info={})
    assert names(tmp_path) == ["last", "step-00000001"]
    assert (tmp_path / "last" / "state.bin").read_text() == "anew"
    assert checkpoints.newest().step == 1


def tear_missing(path):
    (path / "weights.bin").unlink()


def tear_short(path):
    os.truncate(path / "weights.bin", 17)


def tear_flip(path):
    data = bytearray((path / "weights.bin").read_bytes())
    data[100] ^= 4
    (path / "weights.bin").write_bytes(data)


def tear_index(path):
    os.truncate(path / "checkpoint.json", 40)


def tear_no_index(path):
    (path / "checkpoint.json").unlink()


TEARS = [tear_missing, tear_short, tear_flip, tear_index, tear_no_index]


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over(tmp_path, tear, caplog):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    path = save(checkpoints, 2)
    tear(path)
    assert checkpoints.newest().step == 1
    assert str(path) in caplog.text


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_alone_is_an_error(tmp_path, tear):
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 1)
    tear(path)
    with pytest.raises(CorruptCheckpointError, match=str(path)):
        checkpoints.newest()
    with pytest.raises(CorruptCheckpointError, match=str(path)):
        read_checkpoint(path)


def test_another_format_is_named(tmp_path):
    path = save(Checkpoints(tmp_path), 1)
    index = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**index, "format": 9}))
    with pytest.raises(CorruptCheckpointError, match="has format 9, and this version reads 1"):
        read_checkpoint(path)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, best=True)
    before = names(tmp_path)

    def full(folder):
        writer("x")(folder)
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, full, info={})
    assert names(tmp_path) == before
    assert checkpoints.newest().step == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from fluxcore.training.checkpoint import Checkpoints

def write(folder):
    (folder / "weights.bin").write_text("x" * 1000)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(int(sys.argv[3]), write, info={})
"""


def test_kill_while_writing(tmp_path):
    def run(*arguments):
        return subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *arguments], check=False).returncode

    assert run("live", "1") == 0
    assert run("die", "2") == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest().step == 1
    save(checkpoints, 2)
    assert names(tmp_path) == ["last", "step-00000001", "step-00000002"]


def test_resume_auto(tmp_path):
    folder = RunFolder(tmp_path, "t")
    assert find_checkpoint("auto", folder, {"lr": 1}) is None
    save(Checkpoints(folder.checkpoints), 3, config={"lr": 1, "log_every": 5})
    assert find_checkpoint("auto", folder, {"lr": 1, "log_every": 6}).step == 3
    with pytest.raises(ConfigError, match="but lr=1 is now 2"):
        find_checkpoint("auto", folder, {"lr": 2, "log_every": 5})


def test_resume_never_spares_the_run_that_is_there(tmp_path):
    folder = RunFolder(tmp_path, "t")
    assert find_checkpoint("never", folder, {}) is None
    folder.metrics.write_text("")
    assert find_checkpoint("never", folder, {}) is None
    folder.metrics.write_text("{}\n")
    with pytest.raises(ConfigError, match="`run_dir` already holds a run"):
        find_checkpoint("never", folder, {})


def test_resume_from_a_folder(tmp_path):
    path = save(Checkpoints(tmp_path / "a"), 3, config={"lr": 1})
    assert find_checkpoint(str(path), RunFolder(tmp_path / "b", "t"), {"lr": 1}).path == path.resolve()
    with pytest.raises(FileNotFoundError, match="No such checkpoint"):
        find_checkpoint(str(tmp_path / "none"), RunFolder(tmp_path / "b", "t"), {})
