"""The tables of the loader's benchmark: ratios, targets, and what is quoted."""

from pathlib import Path

import pytest

from benchmarks.data import report
from benchmarks.data.goals import GOALS, verdicts
from benchmarks.data.measures import MEASURES
from benchmarks.data.quoted import quoted, quoted_table
from benchmarks.table import read_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEAD = {"environment": {"device": "here"}}


def row(measure, contender, value, note="", **figures):
    return HEAD | {"measure": measure, "contender": contender, "status": "ok", "value": value, "note": note} | figures


def test_a_rival_without_a_figure_has_a_row_that_says_so():
    rows = [
        row("item", "fluxcore", 2.0),
        row("item", "fluxcore, tokens alone", 3.5),
        row("item", "slow", 7.0, "n"),
        row("item", "fast", 1.0),
        HEAD | {"measure": "item", "contender": "gone", "status": "not installed: gone"},
    ]
    assert report.markdown(rows).splitlines()[4:] == [
        "| fluxcore | 2 |  | 0.57x |  | <= 3 us | met, 2 us |",
        "| fluxcore, tokens alone | 3.5 | 1.8x |  |  | <= 3 us | **missed**, 3.5 us |",
        "| slow | 7 | 3.5x | 2x | n |  |  |",
        "| fast | 1 | 0.5x | 0.29x |  |  |  |",
        "| gone | not installed: gone | | | | | |",
    ]


def test_growth_over_other_numbers_of_batches_has_no_ratio():
    rows = [row("memory", "fluxcore", 2.0, batches=1_000_000), row("memory", "other", 8.0, batches=7)]
    assert report.markdown(rows).splitlines()[5] == "| other | 8 |  |  |  |  |  |"


MEMMAP, FANCY = "numpy memmap + DataLoader", "numpy fancy index"
FEW = "not judged: over 20,000 sparse chunks, not 50,000,000"


def judged(measure, value, others=(), contender="fluxcore", **figures):
    own = row(measure, contender, value, **figures)
    return verdicts(own, {contender: own} | {name: row(measure, name, rate) for name, rate in others})[1]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (judged("warm", 500, [(MEMMAP, 100), (FANCY, 251)], core_s=1.1), "met, 5x; **missed**, 1.99x; met, 1.1 core-s"),
        (judged("warm", 4, [(MEMMAP, 1), (FANCY, 2)], core_s=2), "**missed**, 4x; met, 2x; **missed**, 2 core-s"),
        (judged("warm", 690, [(MEMMAP, 100), (FANCY, 300)], "fluxcore, no CRC"), "**missed**, 6.9x; met, 2.3x"),
        (judged("cold-large", 46, [(MEMMAP, 2.3)]), "met, 20x"),
        (judged("cold-large", 46), "not judged: no figure of numpy memmap + DataLoader"),
        (judged("start", 49.9, mb=10, sparse_chunks=50_000_000), "met, 49.9 ms; **missed**, 10 MB"),
        (judged("start", 1, mb=0, sparse_chunks=20_000), f"{FEW}; {FEW}"),
        (judged("resume", 4.9, right=50, of=50), "met, 4.9 ms, 50 of 50 right"),
        (judged("resume", 4.9, right=49, of=50), "**missed**, 4.9 ms, 49 of 50 right"),
        (judged("resume", 5, right=50, of=50), "**missed**, 5 ms, 50 of 50 right"),
        (judged("elastic", 100), "met, 100%"),
        (judged("elastic", 99.3), "**missed**, 99.3%"),
        (judged("flips", 98.4), "**missed**, 98.4%"),
        (judged("spread", 0.969), "**missed**, 0.969"),
        (judged("memory", 15.9, batches=1_000_000), "met, 15.9 MB"),
        (judged("memory", 16, batches=1_000_000), "**missed**, 16 MB"),
        (judged("memory", 1, batches=73_728), "not judged: over 73,728 batches, not 1,000,000"),
        (judged("item", 9, contender=FANCY), ""),
    ],
)  # fmt: skip
def test_targets_are_met_or_missed(verdict, expected):
    assert verdict == expected


def test_a_rival_that_could_not_run_is_no_yardstick():
    own, gone = row("cold-large", "fluxcore", 9.0), HEAD | {"status": "cannot run: no"}
    assert verdicts(own, {"fluxcore": own, MEMMAP: gone})[1] == f"not judged: no figure of {MEMMAP}"


def test_every_target_is_for_a_measure_and_for_ours():
    assert {goal.measure for goal in GOALS} == set(MEASURES) - {"cold"}
    assert all(name.startswith("fluxcore") for goal in GOALS for name in goal.contenders)


def test_what_is_quoted_stands_apart_and_beside_its_own_run():
    text = report.markdown([row("warm", "fluxcore", 1000.0, core_s=1.0)])
    measured, other = text.split("Of another run")
    assert "quoted" not in measured
    assert quoted()["source"] in other
    for name in ("grain", "webdataset", "nanoGPT", "Megatron index", "Megatron GPTDataset"):
        assert f"| {name} (quoted) |" in other
    assert "| grain (quoted) | 47 to 50 M tokens/s | 0.28x |" in other
    assert "| DeepSpeed (quoted) | 0 of 50 batches right | |" in quoted_table("resume")
    assert quoted_table("item") is None


@pytest.mark.parametrize("path", sorted(RESULTS.glob("cpu_data_*.jsonl")), ids=lambda path: path.stem)
def test_rows_that_are_kept_can_be_read(path):
    rows = list(read_rows(path))
    text = report.markdown(rows)
    assert all(text.count(f"| {row['contender']} | ") for row in rows)
