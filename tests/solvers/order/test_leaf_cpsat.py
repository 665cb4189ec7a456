"""CP-SAT at a leaf: each family of constraints alone, and all of them against all orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from roam.bench.layered import layered_graph
from roam.core.lifetime import live_peak
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.solvers.answer import Outcome
from roam.solvers.order import valleys
from roam.solvers.order.leaf_cpsat import (
    Limits,
    Program,
    add_buffers,
    add_hint,
    add_limit,
    add_steps,
    add_waits,
    keeps_within,
    variables,
    windows,
)
from roam.solvers.order.progress import Phase
from roam.solvers.order.widening import BeamSearch
from roam.solvers.work import Work
from tests.core.strategies import dense_problems, problems
from tests.solvers.order.test_valleys import least, peak_of


@settings(max_examples=25)
@given(problems(max_ops=8) | dense_problems(), st.integers(-20, 60))
def test_cp_sat_valleys_beams_and_all_orders_agree(problem: Problem, off: int) -> None:
    for phase, ops in enumerate(problem.phases):
        lowest = least(problem, phase) if ops else 0
        for most in (lowest - 1, lowest, lowest + off) if ops else ():
            answers = (
                keeps_within(problem, phase, most),
                valleys.keeps_within(problem, phase, most),
                BeamSearch(problem, phase).keeps_within(most, 10**6, Work()),
            )
            for answer in answers:
                assert answer.value == most
                if most >= lowest:
                    assert answer.found is not None
                    assert peak_of(problem, answer.found) <= most
                else:
                    assert answer.status is Outcome.DOES_NOT_FIT
                    assert most < answer.bound <= lowest


def chain_and_loose() -> Problem:
    """a -> b -> c, beside d, which nothing waits for; b may be written over a.

    saved (5) ── d      a makes x (10), b makes y (10), c makes z (3), which is kept
    """
    buffers = (
        Buffer("saved", 5),
        Buffer("x", 10),
        Buffer("y", 10),
        Buffer("z", 3, Kind.GRADIENT, Home.EXTERNAL),
    )
    ops = (
        Op("forward", creates=(0,)),
        Op("a", creates=(1,), phase=1),
        Op("b", reads=(1,), creates=(2,), over=((2, 1),), phase=1),
        Op("c", reads=(2,), creates=(3,), scratch=4, phase=1),
        Op("d", reads=(0,), scratch=2, phase=1),
    )
    return Problem("chain and loose", buffers, ops)


A, B, C, D = range(4)


def orders(*families: Callable[[Program], None], windowed: bool = False) -> set[str]:
    """The orders that a program of these families allows, as words."""
    found = set()
    for order in permutations(range(4)):
        program = Program(Phase(chain_and_loose(), 1))
        if not windowed:  # without the constants, which say who comes first as well
            program.ran = [
                [program.no, *(program.model.new_bool_var("") for _ in range(3)), program.yes]
                for _ in range(4)
            ]
        for add in families:
            add(program)
        fix(program, order)
        if cp_model.CpSolver().solve(program.model) == cp_model.OPTIMAL:
            found.add("".join("abcd"[k] for k in order))
    return found


def fix(program: Program, order: Sequence[int]) -> None:
    for step, k in enumerate(order):
        for t, ran in enumerate(program.ran[k]):
            program.model.add(ran == int(step < t))


LEGAL = {"abcd", "abdc", "adbc", "dabc"}


def test_steps_allow_every_order_and_only_orders() -> None:
    assert len(orders(add_steps)) == 24
    program = Program(Phase(chain_and_loose(), 1))
    program.ran = [
        [program.no, *(program.model.new_bool_var("") for _ in range(3)), program.yes]
        for _ in range(4)
    ]
    add_steps(program)
    program.model.add(program.ran[A][2] == 1)
    program.model.add(program.ran[B][1] == 1)
    program.model.add(program.ran[C][2] == 1)  # three ops before step 2
    assert cp_model.CpSolver().solve(program.model) == cp_model.INFEASIBLE


def test_waits_allow_the_legal_orders() -> None:
    assert orders(add_waits) == LEGAL


def test_windows_hold_for_the_legal_orders() -> None:
    seen = windows(Phase(chain_and_loose(), 1))
    assert seen == [range(0, 2), range(1, 3), range(2, 4), range(0, 4)]
    assert orders(windowed=True) == LEGAL  # here they are enough


@pytest.mark.parametrize(("order", "alive"), [("abcd", "x1y2s0123"), ("dabc", "x2y3s0")])
def test_buffers_are_alive_from_their_maker_to_their_last_user(order: str, alive: str) -> None:
    program = Program(Phase(chain_and_loose(), 1))
    add_buffers(program)
    fix(program, ["abcd".index(name) for name in order])
    bytes_alive = cp_model.LinearExpr.sum([x for row in program.alive.values() for x in row])
    program.model.minimize(bytes_alive)  # what need not be alive is not
    solver = cp_model.CpSolver()
    assert solver.solve(program.model) == cp_model.OPTIMAL
    found = {
        name: "".join(str(t) for t in range(4) if solver.boolean_value(program.alive[b][t]))
        for name, b in (("x", 1), ("y", 2), ("s", 0))
    }
    assert "".join(name + steps for name, steps in found.items()) == alive


def test_the_limit_counts_saved_buffers_scratch_and_reuse() -> None:
    """d first takes 5 + 2, a takes 10, b too, written over x, and c takes 10 + 3 + 4."""

    def within(most: int) -> set[str]:
        return orders(add_waits, add_buffers, lambda program: add_limit(program, most))

    assert within(22) == LEGAL
    assert within(21) == within(17) == {"abdc", "adbc", "dabc"}
    assert within(16) == set()


def test_a_hint_is_the_answer_if_it_fits() -> None:
    problem = layered_graph(30, width=0.43, seed=1)
    program = Program(Phase(problem, 0))
    add_hint(program, range(len(problem.ops)))
    hinted = program.model.proto.solution_hint
    assert len(hinted.vars) == len(hinted.values) > len(problem.ops)
    most = live_peak(problem, range(len(problem.ops)))
    found = keeps_within(problem, 0, most, range(len(problem.ops)))
    assert found.found == list(range(len(problem.ops)))


def test_a_large_leaf_or_no_work_is_unknown_at_once() -> None:
    problem = layered_graph(30, width=0.43, seed=1)
    size = variables(Phase(problem, 0))
    assert keeps_within(problem, 0, 0, limits=Limits(size)).status is Outcome.DOES_NOT_FIT
    for answer in (
        keeps_within(problem, 0, 0, limits=Limits(size - 1)),
        keeps_within(problem, 0, 0, work=Work(limit=0)),
        keeps_within(problem, 0, 0, work=Work(deadline=0.0)),
    ):
        assert (answer.status, answer.work) == (Outcome.UNKNOWN, 0)


def test_it_settles_a_wide_leaf_and_the_same_leaf_the_same_way() -> None:
    problem = layered_graph(40, width=0.43, seed=1)
    beams = BeamSearch(problem, 0)
    least_peak = next(
        most
        for most in range(beams.keeps_within(0, 10**5, Work()).bound, 10**9, 10)
        if beams.keeps_within(most, 10**5, Work()).found
    )
    work, again = Work(), Work()
    found = keeps_within(problem, 0, least_peak, work=work)
    assert found.found is not None
    assert live_peak(problem, found.found) == least_peak
    assert keeps_within(problem, 0, least_peak, work=again).found == found.found
    assert work.spent == again.spent > 0
    assert keeps_within(problem, 0, least_peak - 1).bound == least_peak
