"""Verification that goes on: killed anywhere it checks the rest, and what was changed, and only that."""

import json
import os
import resource
import signal

import numpy as np
import pytest
from support.command_line import fails, succeeds
from support.data_sets import flip_bit, write_data_set
from support.killing import contents, killed_everywhere

import fluxcore.data
from fluxcore.data import ShardWriter, chunk_checks, verify
from fluxcore.errors import CorruptShardError


@pytest.fixture
def ds(tmp_path):
    """Six shards with a sidecar each."""
    ds = write_data_set(tmp_path / "set", 120)
    ds.add_column("c", ds.column("score"))
    assert len(ds.manifest.shards) == 6
    return ds


@pytest.fixture
def checked(monkeypatch):
    """Numbers of the shards whose bytes are read."""
    seen = []
    whole = verify._verify_shard

    def counted(folder, manifest, core, number):
        seen.append(number)
        whole(folder, manifest, core, number)

    monkeypatch.setattr(verify, "_verify_shard", counted)
    return seen


def test_killed_anywhere_it_checks_the_rest(ds, tmp_path, checked):
    before, state = contents(ds.path), tmp_path / "state.json"
    plain = ds.verify()
    counts = []
    for _ in killed_everywhere(lambda tick: ds.verify(progress=tick, resume_from=state), stride=2):
        checked.clear()
        report = ds.verify(resume_from=state)
        assert report.resumed_shards == 6 - len(checked)
        assert checked == list(range(report.resumed_shards, 6))
        assert (report.tokens, report.chunks, report.bytes) == (plain.tokens, plain.chunks, plain.bytes)
        assert not state.exists()
        counts.append(len(checked))
    assert counts[0] == 6
    assert min(counts) == 0
    assert counts == sorted(counts, reverse=True)
    assert contents(ds.path) == before


def interrupted(ds, state):
    """Verify four shards."""
    done = []

    def progress(*_):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ds.verify(progress=progress, resume_from=state)
    assert len(state.read_text().splitlines()) == 1 + 4


def test_a_shard_that_was_changed_since_is_checked_again(ds, tmp_path, checked):
    state = tmp_path / "state.json"
    interrupted(ds, state)
    sound = ds[25].tobytes()
    flip_bit(ds.path / "shard-000001.fxs", sound)
    with pytest.raises(CorruptShardError, match=r"shard-000001\.fxs"):
        fluxcore.data.open(ds.path).verify(resume_from=state)
    assert checked == [0, 1, 2, 3, 1]
    flip_bit(ds.path / "shard-000001.fxs", bytes([sound[0] ^ 1]) + sound[1:])
    assert fluxcore.data.open(ds.path).verify(resume_from=state).resumed_shards == 3
    assert checked == [0, 1, 2, 3, 1, 1, 4, 5]


def test_a_sidecar_that_was_changed_since_is_checked_again(ds, tmp_path, checked):
    state = tmp_path / "state.json"
    interrupted(ds, state)
    sidecar = ds.path / ds.manifest.shards[2].sidecars[0].name
    os.utime(sidecar, ns=(0, sidecar.stat().st_mtime_ns + 1))
    ds.verify(resume_from=state)
    assert checked == [0, 1, 2, 3, 2, 4, 5]


def test_a_chunk_that_comes_twice_is_found_in_shards_of_two_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_checks, "check_unique", lambda _: None)  # or nobody could write it
    options = {"chunk_tokens": 4, "vocab_size": 9, "sources": ["s"], "shard_bytes": 11 * 4096 + 256 + 20 * 46}
    with ShardWriter(tmp_path / "set", **options) as writer:
        index = np.arange(120)
        index[110] = 3
        places = {"doc_ids": index, "doc_offsets": np.zeros(120, int), "original_index": index}
        writer.append_batch(np.ones((120, 4), int), sources="s", **places)
    ds = fluxcore.data.open(tmp_path / "set")
    interrupted(ds, tmp_path / "state.json")
    with pytest.raises(CorruptShardError, match="original index 3 occurs twice"):
        ds.verify(resume_from=tmp_path / "state.json")


@pytest.mark.parametrize("change", ["column", "copy"])
def test_what_was_found_of_another_set_does_not_count(ds, tmp_path, checked, change):
    state = tmp_path / "state.json"
    interrupted(ds, state)
    if change == "column":
        ds.add_column("d", ds.column("score"))
        other = ds
    else:
        ds.path.rename(tmp_path / "moved")
        other = fluxcore.data.open(tmp_path / "moved")
    assert other.verify(resume_from=state).resumed_shards == 0
    assert checked == [0, 1, 2, 3, *range(6)]


def test_a_line_that_was_cut_short_is_no_shard(ds, tmp_path):
    state = tmp_path / "state.json"
    interrupted(ds, state)
    state.write_bytes(state.read_bytes()[:-9])
    assert ds.verify(resume_from=state).resumed_shards == 3


@pytest.mark.parametrize("text", ["mine", '{"mine": 1}\n', "[]\n", "\udcff\n"])
def test_another_file_is_left_alone(ds, tmp_path, text):
    mine = tmp_path / "mine"
    mine.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="`resume_from` must be a file that an earlier verification wrote"):
        ds.verify(resume_from=mine)
    assert mine.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_a_full_disk_is_named_and_it_goes_on(ds, tmp_path, checked):
    state = tmp_path / "state.json"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(done, _):
        if done > len(ds) // 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size + 20, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large") as error:
            ds.verify(progress=fill, resume_from=state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.filename == str(state)
    assert ds.verify(resume_from=state).resumed_shards == 2
    assert checked == [0, 1, 2, 2, 3, 4, 5]


def test_the_command_line(ds, tmp_path):
    state = tmp_path / "state.json"
    interrupted(ds, state)
    head = json.loads(state.read_text().splitlines()[0])
    assert head["manifest"] == ds.manifest.hash
    assert "in 6 shards and 6 sidecars, 4 of them by an earlier run" in succeeds("verify", ds.path, "--resume", state)
    assert "earlier" not in succeeds("verify", ds.path, "--resume", state)
    state.write_text("mine")
    assert "`resume_from` must be" in fails("verify", ds.path, "--resume", state)
