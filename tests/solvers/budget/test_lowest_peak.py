"""Copies for so many seconds: never more, and a peak that brute force does not beat by far."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roam.core.lifetime import find_reuse, live_curve, live_peak
from roam.solvers.budget.copies import Copies, Curve, Step
from roam.solvers.budget.lowest_peak import (
    least_with_copies,
    lowest_peak,
    peak_without,
    saved_buffers,
)
from tests.solvers.budget.test_choose import chain, step_of


def peak(copies: Copies) -> int:
    return Curve.of(copies).peak


def none(step: Step) -> Copies:
    return Copies.of(step, frozenset())


def lowest_by_brute_force(step: Step, seconds: float) -> int:
    copies = list(product(step.forms, range(len(step.starts))))
    found = []
    for bits in range(2 ** len(copies)):
        choice = frozenset(c for n, c in enumerate(copies) if bits >> n & 1)
        some = Copies.of(step, choice)
        if some.cost <= seconds:
            found.append(peak(some))
    return min(found)


def test_the_cheap_ones_run_again() -> None:
    """While f5 runs, all before it are saved: of what two seconds pay for, the two cheap ones."""
    step = step_of(chain([10] * 6, [9.0, 1.0, 9.0, 1.0, 9.0, 9.0]), segments=6)
    found = lowest_peak(step, 2.0)
    assert sorted(p.op for p in found.placed) == [1, 3]
    assert peak(found) == peak(none(step)) - 20


def test_between_two_layers_that_cost_the_same_a_part_is_taken() -> None:
    """All change sides at one price, and only three of seven can be paid for."""
    step = step_of(chain([10] * 8, [1.0] * 8), segments=8)
    found = lowest_peak(step, 3.0)
    assert len(found.placed) == 3
    assert peak(found) == peak(none(step)) - 30


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_what_costs_more_does_not_run_again(seconds: float) -> None:
    step = step_of(chain([10] * 4, [1.0] * 4), segments=4)
    assert lowest_peak(step, seconds).placed == []


def test_what_does_not_lower_the_peak_does_not_run_again() -> None:
    """The peak is at the last op, which needs all that is alive then."""
    step = step_of(chain([1] * 2, [1.0] * 2, gradient=100), segments=2)
    assert lowest_by_brute_force(step, 100.0) == peak(none(step))
    assert lowest_peak(step, 100.0).placed == []


@example(ops=[(1, 1), (2, 1), (2, 1), (2, 1)])  # all that may be copied, at once, lowers nothing
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=3, max_size=5))
def test_no_more_seconds_and_hardly_more_bytes_than_brute_force(ops: list[tuple[int, int]]) -> None:
    step = step_of(chain([s for s, _ in ops], [float(c) for _, c in ops]), segments=2)
    for seconds in (1.0, 4.0):
        found = lowest_peak(step, seconds)
        least = lowest_by_brute_force(step, seconds)
        assert found.cost <= seconds
        assert least <= peak(found) <= min(peak(none(step)), least + max(s for s, _ in ops))
        again = {p.op for p in found.placed}
        if not any(op.over for op in step.problem.ops):
            assert least_with_copies(step.problem, set(step.forms)) <= peak(found)
        assert again <= set(step.forms)


def test_a_look_at_what_there_is_to_gain() -> None:
    """Of four saved tensors an op uses at most two at a time, its own result included."""
    problem = chain([10] * 4, [1.0] * 4)
    order = range(len(problem.ops))
    reuse = find_reuse(problem, order)
    saved = saved_buffers(problem, 4)
    assert saved == [1, 2, 3, 4]
    assert peak_without(problem, order, reuse, []) == live_peak(problem, order)
    found = peak_without(problem, order, reuse, saved)
    assert found == 20 < max(live_curve(problem, order, reuse))
