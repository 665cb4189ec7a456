"""The trade-off between memory and time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from roam.solvers.budget.pareto import pareto
from tests.solvers.budget.test_choose import chain, step_of


def test_each_smaller_peak_costs_more_and_no_less_than_its_bound() -> None:
    costs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    points = pareto(step_of(chain([10] * 8, costs), segments=8), 8)
    assert len(points) > 4
    assert points[-1].seconds == points[-1].copies == points[-1].bound == 0
    for small, large in pairwise(points):
        assert small.peak < large.peak
        assert small.seconds > large.seconds
    assert all(0 <= p.bound <= p.seconds for p in points)
    assert any(p.bound == p.seconds > 0 for p in points)


def test_one_point_is_the_smallest_peak_that_is_found() -> None:
    step = step_of(chain([10] * 4, [1.0] * 4), segments=4)
    (smallest,) = pareto(step, 1)
    assert smallest.peak == pareto(step, 5)[0].peak


@pytest.mark.parametrize("n", [2, 3, 9])
def test_there_are_no_more_points_than_asked_for(n: int) -> None:
    assert 2 <= len(pareto(step_of(chain([10] * 6, [1.0] * 6), segments=6), n)) <= n
