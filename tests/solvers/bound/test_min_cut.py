"""The cheapest moment of an op, against all orders there are."""

from __future__ import annotations

from hypothesis import given

from roam.core.bounds import must_live_bound
from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import Buffer, Op, Problem
from roam.core.proof import Bound, Cut, Search
from roam.solvers.answer import Outcome
from roam.solvers.bound.min_cut import Cuts, cut_bound
from roam.solvers.work import Work
from tests.core.strategies import all_orders, problems


def curves(problem: Problem) -> list[tuple[tuple[int, ...], list[int]]]:
    return [
        (order, list(live_curve(problem, order, find_reuse(problem, order))))
        for order in all_orders(problem)
    ]


@given(problems(max_ops=6))
def test_no_order_runs_an_op_below_its_bound(problem: Problem) -> None:
    cuts = Cuts(problem)
    bounds = [cuts.bound(i) for i in range(len(problem.ops))]
    for order, curve in curves(problem):
        assert all(bounds[i] <= live for i, live in zip(order, curve, strict=True))


@given(problems(max_ops=6))
def test_no_order_goes_below_the_bound_and_it_is_the_stronger_one(problem: Problem) -> None:
    weak = must_live_bound(problem)
    for order, curve in curves(problem):
        strong = cut_bound(problem, order, curve, weak)
        assert weak.value <= strong.bound <= min(max(c, default=0) for _, c in curves(problem))


def two_chains() -> Problem:
    """In each chain one 10 is alive from the start to the end, though none of them must be.

    start ── a0 ── a1 ── end        the 10 in `a` may be made into another one before or after
          └─ b0 ── b1 ──┘           the chain of `b` is: one of the two is there in any case
    """
    buffers = [Buffer(f"{c}{k}", 10) for c in "ab" for k in range(3)]
    ops = [Op("start", creates=(0, 3))]
    for first in (0, 3):
        ops += [Op(f"op{first + k}", reads=(first + k,), creates=(first + k + 1,)) for k in (0, 1)]
    ops.append(Op("end", reads=(2, 5)))
    return Problem("chains", tuple(buffers), tuple(ops))


def test_one_of_a_chain_of_copies_is_always_alive() -> None:
    problem = two_chains()
    order = range(len(problem.ops))
    curve = live_curve(problem, order, {})
    known = must_live_bound(problem)
    answer = cut_bound(problem, order, curve, known)
    assert known.value == 20
    assert (answer.bound, answer.value, answer.status) == (30, max(curve), Outcome.OPTIMAL)
    assert answer.found == Cut(order[curve.index(30)])


def test_it_asks_the_highest_ops_first_and_no_more_than_it_must() -> None:
    problem = two_chains()
    order = range(len(problem.ops))
    curve = live_curve(problem, order, {})
    known = must_live_bound(problem)
    assert cut_bound(problem, order, curve, known).work == 1  # the first one proves the peak
    none = cut_bound(problem, order, curve, known, Work(limit=0))
    assert (none.found, none.bound, none.work) == (known.proof, 20, 0)
    assert none.status is Outcome.FEASIBLE


def test_a_bound_that_a_search_has_proven_gets_a_cut_as_proof_if_there_is_one() -> None:
    problem = two_chains()
    order = range(len(problem.ops))
    curve = live_curve(problem, order, {})
    searched = cut_bound(problem, order, curve, Bound(30, Search(0)))
    assert (searched.found, searched.bound, searched.work) == (Cut(curve.index(30)), 30, 1)
    curve[curve.index(30)] = 40  # as if the best order took more: the op alone proves 30
    beyond = cut_bound(problem, order, curve, Bound(40, Search(0)))
    assert (beyond.found, beyond.bound, beyond.work) == (Search(0), 40, 1)
