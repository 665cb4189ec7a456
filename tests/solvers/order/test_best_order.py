"""The searches together: who is asked, in which order, with how much work."""

from __future__ import annotations

from hypothesis import given

from roam.bench.layered import layered_graph
from roam.core.bounds import must_live
from roam.core.lifetime import live_peak
from roam.core.problem import Problem
from roam.core.proof import Cut, Search
from roam.solvers.answer import Outcome
from roam.solvers.bound.min_cut import Cuts
from roam.solvers.order.best_order import best_order
from roam.solvers.work import Work
from tests.core.strategies import problems


@given(problems(max_ops=7))
def test_the_answer_is_true_of_its_order(problem: Problem) -> None:
    answer = best_order(problem)
    assert answer.value == live_peak(problem, answer.found.order)
    assert must_live(problem) <= answer.bound <= answer.value
    assert (answer.status is Outcome.OPTIMAL) == (answer.bound == answer.value)


def test_local_search_meets_the_bound_of_a_cut() -> None:
    """What must be alive is 18 % below the best order, which a cut at one op proves best."""
    work = Work(3 * 10**8)
    answer = best_order(layered_graph(120, width=0.43, seed=5), work)
    assert "local search" in answer.found.method
    assert answer.status is Outcome.OPTIMAL
    assert isinstance(answer.found.proof, Cut)
    assert not work.is_over()


def test_the_more_work_the_longer_the_search() -> None:
    problem = layered_graph(150, width=0.35, seed=3)
    spent = []
    for limit in (0, 10**7, 10**8):
        work = Work(limit)
        answer = best_order(problem, work)
        assert answer.value == live_peak(problem, answer.found.order)
        spent.append((work.spent, -answer.value))
    assert spent == sorted(spent)
    assert spent[0][1] < spent[-1][1]


def test_a_wide_graph_is_proven_optimal_above_its_cuts() -> None:
    """No order keeps below: minimum cuts alone prove 0.6 % less."""
    problem = layered_graph(250, width=0.43, seed=0)
    answer = best_order(problem, Work(2 * 10**9))
    assert answer.status is Outcome.OPTIMAL
    assert answer.found.proof == Search(0)
    assert answer.bound > max(Cuts(problem).bound(op) for op in range(len(problem.ops)))
