"""A short soak, and whether it would tell."""

import signal

import numpy as np
import pytest
from soak.processes import run_target
from soak.rigged import Deadly, Rigged
from soak.rounds import TARGETS, Damaged

# What is killed has tests of its own, and waits for processes most of the time.
SHORT = [target for target in TARGETS if not target.name.startswith("killed")]


@pytest.mark.parametrize("target", SHORT, ids=lambda target: target.name)
def test_a_short_soak_finds_nothing(target, tmp_path):
    made = target()
    made.prepare(tmp_path)
    for seed in range(12 if target.name == "resumed loaders" else 60):
        assert made.attempt(np.random.default_rng(seed)), f"seed {seed}"


@pytest.mark.parametrize(
    ("target", "text"),
    [(Rigged, "the third one"), (Deadly, f"ended with code -{signal.SIGSEGV:d}")],
    ids=["error", "signal"],
)
def test_a_find_is_told_with_its_seed_and_the_rest_goes_on(target, text):
    tally = run_target(target, 0, seed=10, attempts=5)
    assert tally.outcomes == {"fine": 4, "found": 1}
    (find,) = tally.finds
    assert "--seed 12\n" in find
    assert text in find
    assert "FOUND" in str(tally)


def test_only_the_file_in_hand_is_changed(tmp_path):
    """Otherwise a find could not be laid at anything's door."""
    target = Damaged()
    target.prepare(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    outcomes = {target.attempt(np.random.default_rng(seed)) for seed in range(5)}
    assert outcomes <= {"refused", "the same", "without effect"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before
