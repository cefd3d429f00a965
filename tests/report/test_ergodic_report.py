import json
import math

import numpy as np
import pytest

from fluxcore.report.ergodic import by_series, fit, read_ergodic
from fluxcore.report.ergodic_page import fit_rows, summary_rows, verdict, write_ergodic_report
from fluxcore.report.markdown import BEGIN, END

POSITIONS = np.linspace(3.0, 2.0, 5)


def rise(k):
    return 0.2 * (k - 1) ** 0.5


def write_run(folder, *, k, seed, extra=0.0, whole=True, design="constant_total"):
    """A run whose two components lie rise(k) above where they are alone, which depends on the seed."""
    folder.mkdir(parents=True)
    subset = ["a", "b", "c", "d"][:k]
    lines = [
        {"step": 0, "split": "run", "k": k, "seed": seed, "subset": subset, "design": design, "labels": "own"}
        | {"chain": 0, "total_tokens": 1000}
    ]
    for name in subset if whole else subset[1:]:
        xe = (POSITIONS + seed + rise(k) + extra).tolist()
        lines.append({"step": 10, "split": "profile", "component": name, "xe": xe})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def grid(tmp_path):
    for k in (1, 2, 4):
        for seed in (0, 1, 2):
            write_run(tmp_path / "grid" / f"k={k},seed={seed}", k=k, seed=seed, extra=0.001 * seed * (k > 1))
    write_run(tmp_path / "grid" / "k=3,seed=0", k=3, seed=0, whole=False)
    return tmp_path / "grid"


def test_the_rise_is_paired_by_seed_and_fitted(grid):
    runs, unfinished = read_ergodic(grid)
    assert (len(runs), unfinished) == (9, 1)
    (series,) = by_series(runs)
    one, two, four = series.points
    assert (one.k, one.rise) == (1, None)
    assert one.xe.mean == pytest.approx(3.5)
    assert two.rise.mean == pytest.approx(0.201)
    # Between seeds the losses lie 1 nat apart; within one, the rise is known to a thousandth.
    assert two.rise.half_width == pytest.approx(4.302653 * 0.001 / math.sqrt(3), rel=1e-4)
    assert four.rise.mean == pytest.approx(0.2 * 3**0.5 + 0.001)
    np.testing.assert_allclose(four.profile(), POSITIONS + 1.001 + rise(4))
    law = series.power_law()
    assert (law.scale, law.exponent) == (pytest.approx(0.201, rel=1e-3), pytest.approx(0.5, abs=0.01))
    assert law.r_squared == pytest.approx(1)
    assert law.by_seed.mean == pytest.approx(0.5, abs=0.01)


def test_every_component_that_has_a_run_alone_is_compared(tmp_path):
    def write(name, subset, levels, *, tokens=1000, design="constant_total", seed=0):
        (tmp_path / name).mkdir()
        about = {"k": len(subset), "seed": seed, "subset": subset, "design": design, "labels": "own", "chain": 0}
        rows = [{"step": 0, "split": "run", **about, "total_tokens": tokens}]
        for component, level in zip(subset, levels, strict=True):
            rows.append({"step": 9, "split": "profile", "component": component, "xe": (POSITIONS + level).tolist()})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("a", ["a"], [0.0])
    write("b", ["b"], [1.0])
    write("more b", ["b"], [9.0], tokens=4000)
    write("a b c", ["a", "b", "c"], [0.3, 1.5, 7.0])  # c has no run alone
    write("each", ["a", "b"], [0.2, 1.0], tokens=2000, design="constant_per_component")
    total, each = by_series(read_ergodic(tmp_path)[0])
    assert total.points[-1].rise.mean == pytest.approx((0.3 + 0.5) / 2)
    np.testing.assert_allclose(total.points[-1].profile(), POSITIONS + (0.3 + 1.5) / 2)
    assert list(total.points[-1].by_component()) == ["a", "b", "c"]
    # With K = 1 both designs are one, where the budget is the same.
    assert [(point.k, len(point.runs)) for point in each.points] == [(1, 2), (2, 1)]
    assert each.points[-1].rise.mean == pytest.approx(0.1)
    # Of seed 1 the run of b alone is not there yet, so that both seeds are compared by a.
    write("a of seed 1", ["a"], [0.0], seed=1)
    write("a b c of seed 1", ["a", "b", "c"], [0.4, 1.5, 7.0], seed=1)
    assert by_series(read_ergodic(tmp_path)[0])[0].points[-1].rises == pytest.approx({0: 0.3, 1: 0.4})


def test_a_power_law_wants_rises_above_nothing():
    assert fit({2: 0.1}) is None
    assert fit({2: 0.1, 3: -0.1}) is None
    scale, exponent, r_squared = fit({2: 0.5, 3: 1.0, 5: 2.0})
    assert (scale, exponent, r_squared) == pytest.approx((0.5, 1.0, 1.0))


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_losses_made_elsewhere_give_the_same_statistics(grid, tmp_path, suffix):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    noise = np.array([[-0.5], [0.5]])  # two windows
    for k in (1, 2, 4):
        for seed in (0, 1, 2):
            losses = POSITIONS + seed + rise(k) + 0.001 * seed * (k > 1) + noise
            path = elsewhere / f"k={k},seed={seed}{suffix}"
            if suffix == ".npy":
                np.save(path, losses)
            else:
                path.write_text(json.dumps(losses.tolist()))
    (ours,), (theirs,) = (by_series(read_ergodic(folder)[0]) for folder in (grid, elsewhere))
    for mine, other in zip(ours.points, theirs.points, strict=True):
        assert other.xe.mean == pytest.approx(mine.xe.mean)
        if mine.rise is not None:
            assert other.rise.mean == pytest.approx(mine.rise.mean)
            assert other.rise.half_width == pytest.approx(mine.rise.half_width)
    assert write_ergodic_report(elsewhere) == 9


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed=0.json", "[[1.0]]", "must have k= and seed= in its name"),
        ("k=1,seed=0.json", "[1.0, 2.0]", r"must hold finite losses \[windows\]\[positions\], got float64 \[2\]"),
        ("k=1,seed=0.json", "[[1.0], [NaN]]", "must hold finite losses"),
        ("k=1,seed=0.json", "[[1.0], [1.0, 2.0]]", "must hold lists of equally many numbers"),
        ("k=1,seed=0.json", "[[1.0]", "must hold lists of equally many numbers"),
    ],
)
def test_losses_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ergodic(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_ergodic(tmp_path)


def test_page_tables_and_plots_come_from_the_log_alone(grid, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    assert write_ergodic_report(grid, page, tmp_path / "plots") == 9
    assert sorted(path.name for path in grid.glob("*.png")) == ["component.png", "position.png", "rise.png", "xe.png"]
    html = (grid / "report.html").read_text()
    assert html.count("<svg") == 4
    assert "1 unfinished ones left out" in html
    (series,) = by_series(read_ergodic(grid)[0])
    assert verdict([series]) in page.read_text()
    assert [row[1:4] for row in summary_rows([series])] == [[1, 3, 3], [2, 3, 3], [4, 3, 3]]
    assert len(fit_rows([series])) == 1
