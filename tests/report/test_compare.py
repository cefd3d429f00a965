import math

import numpy as np
import pytest
from support.runs import write_run

from fluxcore.report.compare import by_order, common_loss, milestone_losses, tokens_to_reach, verdict
from fluxcore.report.runs import Curve, read_run


def curve(*losses):
    n = len(losses)
    return Curve(
        tokens=1000 * np.arange(1, n + 1),
        loss=np.array(losses),
        score=np.full(n, math.nan),
        tokens_per_second=np.full(n, math.nan),
    )


@pytest.fixture
def results(tmp_path):
    def build(**losses_of_order):
        folders = [
            write_run(tmp_path / f"{order}-{seed}", order=order, seed=seed, validation=losses)
            for order, seeds in losses_of_order.items()
            for seed, losses in enumerate(seeds)
        ]
        return by_order([read_run(folder) for folder in folders])

    return build


@pytest.mark.parametrize(
    ("losses", "goal", "tokens"),
    [
        ((5.0, 4.0, 3.0), 4.0, 2000),
        ((5.0, 4.0, 3.0), 3.5, 2500),
        ((5.0, 4.0), 5.5, 1000),
        ((5.0, 4.0, 4.5, 3.0), 4.25, 1750),  # the first time counts
    ],
)
def test_tokens_to_reach_a_loss(losses, goal, tokens):
    assert tokens_to_reach(curve(*losses), goal) == tokens


def test_a_loss_that_is_never_reached_has_no_tokens():
    assert math.isnan(tokens_to_reach(curve(5.0, 4.0), 3.9))


def test_the_common_loss_is_reached_by_every_run(results):
    found = results(random=[[5.0, 3.0], [5.0, 3.4]], ascending=[[5.0, 3.2, 3.9]])
    assert common_loss(found) == 3.4
    assert all(math.isfinite(result.tokens_to_reach(common_loss(found))) for result in found)


def test_milestones_fall_to_the_common_loss(results):
    found = results(random=[[5.0, 3.0]], ascending=[[6.0, 4.0]])
    milestones = milestone_losses(found)
    assert milestones == sorted(milestones, reverse=True)
    assert milestones[-1] == 4.0
    assert milestones[0] == 4.5


def test_random_comes_first_and_seeds_are_averaged(results):
    found = results(ascending=[[4.0], [5.0]], random=[[3.0], [3.0]], descending=[[6.0]])
    assert [result.order for result in found] == ["random", "ascending", "descending"]
    assert found[1].final_loss == 4.5
    assert found[1].final_loss_range == (4.0, 5.0)


def test_the_verdict_says_so_when_random_wins(results):
    text = verdict(results(random=[[3.0]], ascending=[[3.25]]))
    assert "Ascending order ends at a validation loss of 3.2500" in text
    assert "0.2500 higher than random order (3.0000)" in text
    assert "one seed each" in text


def test_the_verdict_says_so_when_the_order_wins_with_its_error_over_seeds(results):
    text = verdict(results(random=[[3.0], [3.1], [3.2]], ascending=[[2.9], [3.2], [2.8]]))
    assert "0.1333 lower than random order" in text
    assert "lower with 2 of 3 seeds" in text
    # differences -0.1, +0.1, -0.4: standard deviation 0.2517 over sqrt(3)
    assert "standard error of the difference 0.1453" in text
    assert "one seed" not in text


def test_a_tie_is_a_tie(results):
    assert "the same as random order" in verdict(results(random=[[3.0]], ascending=[[3.0]]))


def test_without_a_baseline_the_lowest_is_named(results):
    assert "in descending order" in verdict(results(ascending=[[3.0]], descending=[[2.0]]))


def test_a_run_that_diverged_is_not_passed_over(results):
    found = results(random=[[5.0, 3.0]], ascending=[[5.0, math.nan]])
    assert common_loss(found) == 5.0
    assert "ascending order is not a number" in verdict(found)


def test_the_first_number_after_a_gap_counts_from_where_it_stands():
    assert tokens_to_reach(curve(5.0, math.nan, 4.0), 4.5) == 3000
