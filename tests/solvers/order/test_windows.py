"""Windows around the worst moments: what is free in them, and what a search of them finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from roam.bench.layered import layered_graph
from roam.core.lifetime import live_peak
from roam.core.problem import Problem
from roam.solvers.answer import Outcome
from roam.solvers.order.beam_search import FOUND, GAVE_UP, NONE, search
from roam.solvers.order.greedy import CANDIDATES
from roam.solvers.order.levels import net
from roam.solvers.order.progress import Phase
from roam.solvers.order.windows import Ladder, Rung, allowed, search_windows
from roam.solvers.work import Work
from tests.core.strategies import dense_problems
from tests.solvers.order.test_valleys import layers


def test_ops_are_free_within_the_reach_of_their_window() -> None:
    """Two worst moments, 3 and 4, with a reach of 2: the window is the times 1 to 6."""
    order = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    above = np.zeros(8, np.bool_)
    above[3:5] = True
    first, last = allowed(order, above, 2)
    assert first[order].tolist() == [0, 1, 1, 1, 2, 3, 4, 7]
    assert last[order].tolist() == [0, 3, 4, 5, 6, 6, 6, 7]


def test_a_search_stays_in_the_window() -> None:
    """In each layer, program order runs both large ops first; it costs 64, one by one 35."""
    problem = layers(3)
    n = len(problem.ops)
    seen, order = net(Phase(problem, 0)), np.arange(n)
    assert search(seen, 35, 100, 10**6, order, order)[0] in (NONE, GAVE_UP)  # nothing is free
    above = np.zeros(n, np.bool_)
    above[[2, 7, 12]] = True  # the second large op of each layer
    how, found, *_ = search(seen, 35, 100, 10**6, *allowed(order, above, 2))
    assert how == FOUND
    assert found[0] == 0
    assert all(abs(t - k) <= 2 for t, k in enumerate(found))


def test_every_order_from_either_end_keeps_its_precedences() -> None:
    problem = layered_graph(60, width=0.43, seed=2)
    found = search_windows(problem, 0, list(range(len(problem.ops))))
    place = {i: t for t, i in enumerate(found.found)}
    assert sorted(place) == list(range(len(problem.ops)))
    assert all(place[p] < place[i] for i in place for p in problem.predecessors[i])
    assert found.value == live_peak(problem, found.found)


@given(dense_problems())
def test_the_peak_never_rises(problem: Problem) -> None:
    phase = len(problem.phases) - 1
    order = list(problem.phases[phase])
    others = [i for i in range(len(problem.ops)) if i not in order]
    found = search_windows(problem, phase, order)
    assert sorted(found.found) == order
    assert live_peak(problem, [*others, *found.found]) <= live_peak(problem, [*others, *order])


def test_windows_improve_the_best_greedy_order_of_a_wide_graph() -> None:
    problem = layered_graph(250, width=0.43, seed=0)
    orders = [rule(problem, 0) for rule in CANDIDATES.values()]
    greedy = min(orders, key=lambda order: live_peak(problem, order))
    short = Ladder((Rung(40, 100),))
    cheap = search_windows(problem, 0, greedy, ladder=short)
    found = search_windows(problem, 0, greedy)
    assert found.value <= cheap.value < live_peak(problem, greedy)
    given = live_peak(problem, range(len(problem.ops)))
    assert round(found.value / given, 3) == 0.770  # the proven optimum


def test_at_the_bound_or_without_work_nothing_is_searched() -> None:
    problem = layers(3)
    order = list(range(len(problem.ops)))
    for answer in (
        search_windows(problem, 0, order, bound=64),
        search_windows(problem, 0, order, work=Work(limit=0)),
    ):
        assert (answer.found, answer.value, answer.work) == (order, 64, 0)
    assert search_windows(problem, 0, order, bound=35).status is Outcome.OPTIMAL
