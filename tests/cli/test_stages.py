import subprocess
import sys

import pytest

from fluxcore.cli.stages import RECORDS, open_stages
from fluxcore.errors import DatasetLockedError


class Job:
    """Counts how often its stages ran; `second` depends on `first`."""

    def __init__(self, folder):
        self.folder = folder
        self.ran = []

    def write(self, name, text):
        self.ran.append(name)
        (self.folder / name).write_text(text)

    def run(self, *, first=1, second=1):
        self.ran.clear()
        with open_stages(self.folder) as stages:
            a = stages.run("first", {"n": first}, self.folder / "a", lambda: self.write("a", f"{first}"))
            stages.run("second", {"n": second, "a": a.digest}, self.folder / "b", lambda: self.write("b", f"{second}"))
        return self.ran


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "out")


def test_a_second_run_reuses_every_stage(job):
    assert job.run() == ["a", "b"]
    assert job.run() == []


def test_a_change_redoes_what_depends_on_it_and_nothing_else(job):
    job.run()
    assert job.run(second=2) == ["b"]
    assert job.run(first=2, second=2) == ["a", "b"]
    assert (job.folder / "a").read_text() == "2"


def test_a_lost_output_is_made_again(job):
    job.run()
    (job.folder / "a").unlink()
    assert job.run() == ["a"]


def test_a_torn_record_means_that_the_stage_runs_again(job):
    job.run()
    (job.folder / RECORDS / "second.json").write_text('{"digest": "')
    assert job.run() == ["b"]


def test_a_stage_that_failed_finds_its_own_partial_output_but_not_that_of_other_inputs(tmp_path):
    output = tmp_path / "out" / "data"
    seen = []

    def action(*, fail):
        seen.append(output.exists())
        output.mkdir(exist_ok=True)
        if fail:
            raise OSError("disk full")

    with open_stages(tmp_path / "out") as stages:
        with pytest.raises(OSError, match="disk full"):
            stages.run("x", {"n": 1}, output, lambda: action(fail=True))
        assert not stages.run("x", {"n": 1}, output, lambda: action(fail=False)).reused
        assert stages.run("x", {"n": 1}, output, lambda: action(fail=True)).reused
        assert not stages.run("x", {"n": 2}, output, lambda: action(fail=False)).reused
    assert seen == [False, True, False]


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"), open_stages(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="must be a folder"), open_stages(precious):
        pass


def test_one_process_at_a_time(tmp_path):
    script = f"""
from pathlib import Path
from fluxcore.cli.stages import open_stages
with open_stages(Path({str(tmp_path / "out")!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(DatasetLockedError, match=f"in use by process {other.pid}"),
            open_stages(tmp_path / "out"),
        ):
            pass
        other.communicate("\n")
    with open_stages(tmp_path / "out"):
        pass  # free again
