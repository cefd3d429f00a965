"""The page on numerics says what its script finds."""

import re
from pathlib import Path

import pytest

import fluxcore
from benchmarks.numerics import WRONG, Point, all_points
from benchmarks.numerics_page import PAGE, PLACES, PLOT, heading, table


@pytest.fixture(scope="module")
def points() -> list[Point]:
    with fluxcore.backend("cpp"):
        return all_points(margins=(0, 20, 30, 60), logits=(1e2, 1e5), distances=(1e-1, 1e-4))


def rows_of_page(quantity: str) -> dict[float, list[float]]:
    """Table rows of a section: place to truth, usual, ours."""
    section = PAGE.read_text().split(f"## {heading(quantity)}\n")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if re.match(r"\| [0-9]", line):
            place, *values = (float(cell.strip(" *")) for cell in line.strip("|").split("|"))
            found[place] = values
    return found


@pytest.mark.parametrize("quantity", PLACES)
def test_the_page_has_the_numbers_of_the_script(quantity, points):
    rows = rows_of_page(quantity)
    own = [point for point in points if point.quantity == quantity]
    assert own
    for point in own:
        truth, usual, ours = rows[point.at]
        assert truth == pytest.approx(point.truth, rel=1e-3, abs=0)
        assert ours == pytest.approx(point.ours, rel=1e-3, abs=0)
        # The order of PyTorch's sums, and with it the rounding, is the processor's; whether it is right is not.
        assert (abs(usual / truth - 1) > WRONG) == (point.error(point.usual) > WRONG)


def test_ours_is_right_everywhere_and_the_usual_is_not(points):
    assert max(point.error(point.ours) for point in points) < 1e-4
    gone = {point.quantity for point in points if point.usual <= 0}
    assert {"loss", "gradient", "1 - p_max", "StableMax loss"} <= gone


def test_wrong_values_are_bold(points):
    text = table(points, "loss", "margin")
    assert re.search(r"\| 30 \| 2\.976e-09 \| \*\*0\*\* \| 2\.97[67]e-09 \|", text)
    assert text.count("**") == 6


def test_the_plot_is_light():
    assert 20_000 < Path(PLOT).stat().st_size < 150_000
