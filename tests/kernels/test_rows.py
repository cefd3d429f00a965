"""Which launch is chosen for which shape, and which rows are found to be aligned."""

import pytest
import torch
from fluxcore.kernels.rows import THREADS, plan_rows, row_layout

PROGRAMS = 4 * 132


@pytest.mark.parametrize(
    ("N", "V", "element_size", "regime", "splits"),
    [
        (4096, 1, 4, "rows", 1),
        (1, 2048, 2, "rows", 1),
        (4096, 256, 8, "rows", 1),
        (4096, 2049, 2, "loop", 1),
        (4096, 257, 8, "loop", 1),
        (265, 262144, 2, "loop", 1),
        (264, 262144, 2, "split", 2),
        (1, 262144, 2, "split", 64),
        (1, 8200, 2, "split", 2),
        (1, 2500, 2, "loop", 1),
    ],
)
def test_the_regime_follows_from_the_shape(N, V, element_size, regime, splits):
    plan = plan_rows(N, V, element_size, True, PROGRAMS, max_splits=64)
    assert (plan.regime, plan.splits) == (regime, splits)


@pytest.mark.parametrize("element_size", [2, 4, 8])
@pytest.mark.parametrize("V", [1, 5, 7, 64, 65, 1000, 2047, 2048, 2049, 50257, 128256])
@pytest.mark.parametrize("N", [1, 7, 500])
@pytest.mark.parametrize("edges", [False, True])
def test_a_plan_covers_every_element_once(N, V, element_size, edges):
    plan = plan_rows(N, V, element_size, edges, PROGRAMS, max_splits=64)
    vec = 16 // element_size
    per_tile = plan.lanes * plan.depth * vec
    assert plan.rows * plan.lanes == THREADS
    assert not edges or plan.lanes >= 2 * vec  # one lane for each element of the edges
    assert plan.grid[0] * plan.rows >= N > (plan.grid[0] - 1) * plan.rows
    assert plan.tiles * per_tile >= V // vec * vec
    assert plan.splits <= plan.tiles
    assert all(n & (n - 1) == 0 for n in (plan.rows, plan.lanes, plan.depth, plan.splits))


def test_edges_are_only_where_rows_are_not_aligned():
    whole = torch.zeros(4, 128, dtype=torch.bfloat16)
    assert not row_layout(whole).edges
    assert not row_layout(whole[:, 8:120]).edges
    assert row_layout(whole[:, 1:121]).edges
    assert row_layout(whole[:, :-1]).edges
    assert row_layout(torch.zeros(4, 50257, dtype=torch.bfloat16)).edges


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 100])
def test_the_base_is_aligned_and_the_offset_leads_to_the_first_element(start):
    x = torch.arange(4 * 200, dtype=torch.float32).reshape(4, 200)[:, start:]
    layout = row_layout(x)
    assert layout.base.data_ptr() % 16 == 0
    assert layout.base.data_ptr() + 4 * layout.offset == x.data_ptr()
