"""A command under a limit on its memory: by a control group, by systemd, or not at all and said so."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.data import cold_large, corpus
from benchmarks.data.contender import CannotError
from benchmarks.data.memory_limit import memory_limit
from benchmarks.data.numpy_files import FancyIndex
from benchmarks.data.work import Work

MB = 1 << 20
LIMITS = ("memory.limit_in_bytes", "memory.max")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def test_a_command_runs_in_a_group_with_the_limit():
    try:
        with memory_limit(128 * MB) as prefix:
            if prefix[0] != "sh":
                pytest.skip("systemd keeps the group")
            group = Path(prefix[3]).parent
            joined = subprocess.check_output([*prefix, "cat", "/proc/self/cgroup"], text=True)
            limits = [(group / name).read_text() for name in LIMITS if (group / name).exists()]
    except CannotError as error:
        pytest.skip(str(error))
    assert f"/{group.name}\n" in joined
    assert limits == [f"{128 * MB}\n"]
    assert not group.exists()


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """A stand-in for systemd-run that knows users' scopes alone, and keeps what it was asked."""
    script = tmp_path / "bin" / "systemd-run"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        '[ "$1" = --user ] || { echo "Interactive authentication required." >&2; exit 1; }\n'
        'shift 7\nexec "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return tmp_path / "asked"


def test_without_a_group_of_its_own_a_scope_of_systemd(tmp_path, systemd):
    with memory_limit(MB, own=tmp_path / "none", root=tmp_path) as prefix:
        assert subprocess.check_output([*prefix, "echo", "here"]) == b"here\n"
    assert systemd.read_text().splitlines()[-1] == (
        "--user --scope --quiet -p MemoryMax=1048576 -p MemorySwapMax=0 echo here"
    )


@pytest.mark.parametrize("line", ["4:memory:/of/mine\n", "0::/of/mine\n"], ids=["version 1", "version 2"])
def test_where_neither_is_to_be_had_it_says_what_was_tried(tmp_path, monkeypatch, line):
    own = tmp_path / "own"
    own.write_text(line)
    for folder in ("memory", "memory/of/mine", "of/mine"):
        (tmp_path / folder / f"fluxcore-bench-{os.getpid()}").mkdir(parents=True)  # so that it cannot be made
        (tmp_path / folder / "cgroup.subtree_control").write_text("cpu memory\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(CannotError, match=r"of/mine: File exists; .*systemd-run.*No such file"),
        memory_limit(MB, own=own, root=tmp_path),
    ):
        pass


class Slow(FancyIndex):
    name = files = "slow"
    writes_fast = False


def test_cold_reads_of_a_large_set(tmp_path, monkeypatch):
    """The whole way, with a prefix that limits nothing."""
    monkeypatch.setattr(cold_large, "memory_limit", Unlimited)
    held = list(cold_large.hold([FancyIndex(), Slow()], Work(root=tmp_path, chunks=1, large_chunks=512, seconds=0.02)))
    (_, status, figures), (_, reason, nothing) = held
    assert status == "ok"
    assert figures["value"] > 0
    assert figures["note"].startswith("0.0021 GB in 0.001 GB of memory")
    assert reason.startswith("cannot run: writing 512 chunks one by one")
    assert nothing is None
    assert Unlimited.asked == [512 * 2 * corpus.CHUNK_TOKENS // 2]
    assert list(tmp_path.iterdir()) == []


class Unlimited:
    asked: list[int] = []  # noqa: RUF012

    def __init__(self, size_bytes):
        self.asked.append(size_bytes)

    def __enter__(self):
        return ["env"]

    def __exit__(self, *error):
        pass


def test_without_a_limit_the_row_says_why(tmp_path, monkeypatch):
    def none(size_bytes):
        raise CannotError("no control group may be made")

    monkeypatch.setattr(cold_large, "memory_limit", none)
    held = list(cold_large.hold([FancyIndex()], Work(root=tmp_path, chunks=1)))
    assert [status for _, status, _ in held] == ["cannot run: no control group may be made"]
