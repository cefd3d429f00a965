import math

import pytest

from fluxcore.report.intervals import mean_interval, paired_interval, t_quantile


@pytest.mark.parametrize(
    ("degrees", "probability", "quantile"),
    # Of the usual table of Student's t.
    [(1, 0.975, 12.7062), (2, 0.975, 4.3027), (3, 0.95, 2.3534), (10, 0.995, 3.1693), (1000, 0.975, 1.9623)],
)
def test_quantiles(degrees, probability, quantile):
    assert t_quantile(degrees, probability) == pytest.approx(quantile, abs=5e-5)


def test_an_interval_of_a_mean():
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert not found.excludes_zero
    assert mean_interval([1.0, 1.1]).count == 2


def test_the_error_of_one_value_is_not_known():
    found = mean_interval([1.5])
    assert (found.mean, found.count) == (1.5, 1)
    assert math.isnan(found.low)
    assert not found.excludes_zero
    assert found.text() == "1.5000"


def test_differences_are_paired_by_seed():
    # Far apart between seeds, and always 0.1 within one.
    found = paired_interval({0: 1.1, 1: 5.1, 2: 9.1, 7: 0.0}, {0: 1.0, 1: 5.0, 2: 9.0, 8: 0.0})
    assert found.mean == pytest.approx(0.1)
    assert found.count == 3
    assert found.excludes_zero
    assert paired_interval({0: 1.0}, {1: 1.0}) is None
