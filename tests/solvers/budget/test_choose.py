"""The choice of copies: within the limit, as cheap as brute force finds, and a Problem again."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python.cp_model import OPTIMAL, CpSolver

from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.planner import plan
from roam.solvers.bound.time_bound import least_bytes
from roam.solvers.budget.choose import choose, smallest_peak
from roam.solvers.budget.copies import Copies, Curve, Step, usual_forms
from roam.solvers.budget.copy_reach import Reach
from roam.solvers.budget.hull import Hull
from roam.solvers.budget.proof import least_needed
from roam.solvers.budget.retention import AT, Program, value_of
from roam.solvers.form import Form


def chain(sizes: list[int], costs: list[float], gradient: int = 1) -> Problem:
    """A chain of ops whose results the backward reads in reverse, one each."""
    n = len(sizes)
    buffers = [Buffer("x", 1, Kind.INPUT, Home.USER)]
    buffers += [Buffer(f"a{i}", s, Kind.SAVED) for i, s in enumerate(sizes)]
    buffers += [Buffer(f"g{i}", gradient) for i in range(n)]
    ops = [Op(f"f{i}", (i,), (i + 1,), cost=costs[i]) for i in range(n)]
    for i in reversed(range(n)):
        above = (n + 1 + i + 1,) if i + 1 < n else ()
        ops.append(Op(f"b{i}", (i + 1, *above), (n + 1 + i,), phase=1, cost=1.0))
    return Problem("chain", tuple(buffers), tuple(ops))


def step_of(problem: Problem, segments: int = 3) -> Step:
    boundary = next(i for i, op in enumerate(problem.ops) if op.phase == 1)
    backward = len(problem.ops) - boundary
    starts = sorted({boundary + k * backward // segments for k in range(segments)})
    return Step(problem, boundary, usual_forms(problem, boundary), tuple(starts))


def cheapest_by_brute_force(step: Step, limit: int) -> float | None:
    copies = list(product(step.forms, range(len(step.starts))))
    best = None
    for bits in range(2 ** len(copies)):
        found = Copies.of(step, frozenset(c for n, c in enumerate(copies) if bits >> n & 1))
        if Curve.of(found).peak <= limit and (best is None or found.cost < best):
            best = found.cost
    return best


def test_a_chain_is_cut_at_the_cheapest_op() -> None:
    """While the last op of the forward runs, a2 and a3 are there: only a0 or a1 may be dropped."""
    step = step_of(chain([10, 10, 10, 10], [5.0, 4.0, 1.0, 3.0]), segments=4)
    found = choose(step, 32)
    assert found.fits
    assert [p.op for p in found.copies.placed] == [1]
    assert found.copies.cost == 4.0


def test_nothing_runs_again_if_the_step_fits() -> None:
    step = step_of(chain([10] * 4, [1.0] * 4))
    assert choose(step, Curve.of(Copies.of(step, frozenset())).peak).copies.placed == []


def test_a_copy_is_an_op_of_a_problem_and_a_plan_of_it_keeps_the_limit() -> None:
    problem = chain([10] * 6, [1.0] * 6)
    step = step_of(problem)
    found = choose(step, 45)
    edited, what = found.copies.edited()
    assert plan(edited).peak <= found.peak <= 45
    assert len(edited.ops) == len(problem.ops) + len(found.copies.placed) == len(what)
    assert {op.phase for op in edited.ops if "~" in op.name} == {1}


def test_a_form_that_reads_less_lowers_what_is_proven_to_be_needed() -> None:
    """As batch norm: as it is, it may not run again once its statistics have changed."""
    sizes = {"x": 1, "statistics": 1, "y": 10, "z": 10, "g": 10, "h": 1}
    users = ("x", "statistics")
    buffers = tuple(
        Buffer(
            n,
            s,
            Kind.INPUT if n in users else Kind.TEMPORARY,
            Home.USER if n in users else Home.ARENA,
        )
        for n, s in sizes.items()
    )
    ops = (
        Op("norm", (0, 1), (2,)),
        Op("update", (), (), (1,)),
        Op("up", (0,), (3,)),
        Op("down", (3,), (4,), phase=1),
        Op("normback", (2, 4), (5,), phase=1),
    )
    problem = Problem("norm", buffers, ops)
    step = Step(problem, 3, {0: Form((0,), (2,), cost=1.0)}, (3, 4))
    low = smallest_peak(step)
    assert low.peak < Curve.of(Copies.of(step, frozenset())).peak
    assert least_needed(step, plan(problem), 1.0) <= low.peak


def test_the_smallest_peak_is_proven_least_where_one_op_decides() -> None:
    step = step_of(chain([10] * 6, [1.0] * 6), segments=6)
    without = Curve.of(Copies.of(step, frozenset())).live
    least = least_bytes(step.problem, range(len(step.problem.ops)), without)
    assert least <= smallest_peak(step).peak < max(without)


def test_what_is_changed_later_in_the_forward_is_not_read_again() -> None:
    buffers = (Buffer("w", 1, Kind.INPUT, Home.USER), Buffer("a", 8), Buffer("g", 1))
    ops = (
        Op("read", (0,), (1,)),
        Op("change", mutates=(0,)),
        Op("back", (1,), (2,), phase=1),
    )
    assert usual_forms(Problem("p", buffers, ops), 2) == {}


def test_what_a_fold_changes_is_read_before_the_fold_only() -> None:
    buffers = (
        Buffer("w", 1, Kind.PARAMETER, Home.USER),
        Buffer("a", 8, Kind.SAVED),
        Buffer("g", 1),
        Buffer("h", 1),
    )
    ops = (
        Op("read", (0,), (1,)),
        Op("back", (1,), (2,), phase=1),
        Op("fold", (2,), mutates=(0,), phase=1),
        Op("late", (1,), (3,), phase=1),
    )
    step = Step(Problem("p", buffers, ops), 1, usual_forms(Problem("p", buffers, ops), 1), (1, 3))
    assert step.latest[0] == 2
    found = smallest_peak(step)
    assert all(p.segment == 0 for p in found.copies.placed)
    # a segment that begins before the fold: the copy would run behind it, and read what is changed
    wide = replace(step, starts=(1, 2))
    assert Copies.of(wide, frozenset({(0, 1)})).placed == []
    assert [p.before for p in Copies.of(wide, frozenset({(0, 0)})).placed] == [1]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=3, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.integers(50, 99),
)
def test_the_choice_costs_what_brute_force_finds(
    sizes: list[int], costs: list[int], percent: int
) -> None:
    step = step_of(chain(sizes, [float(c) for c in costs]), segments=2)
    limit = Curve.of(Copies.of(step, frozenset())).peak * percent // 100
    best = cheapest_by_brute_force(step, limit)
    found = choose(step, limit)
    assert found.fits == (found.peak <= limit)
    assert found.fits == (best is not None)
    if best is not None:
        assert found.copies.cost == pytest.approx(best, rel=0.01)


def test_an_op_writes_over_what_only_the_backward_would_still_need() -> None:
    """Once `wide` is not kept, `last` takes its place: 12 bytes less, and the only way to fit."""
    names = {"x": 1, "small": 1, "wide": 10, "last": 10, "g": 2, "h": 1}
    buffers = tuple(
        Buffer(
            n, s, Kind.INPUT if n == "x" else Kind.TEMPORARY, Home.USER if n == "x" else Home.ARENA
        )
        for n, s in names.items()
    )
    ops = (
        Op("narrow", (0,), (1,), scratch=4),
        Op("widen", (0, 1), (2,), cost=2.0),
        Op("replace", (2,), (3,), over=((3, 2),), once=True, cost=5.0),
        Op("early", (1, 3), (4,), phase=1, cost=1.0),
        Op("late", (2, 4), (5,), phase=1, cost=1.0),
    )
    problem = Problem("over", buffers, ops)
    found = choose(Step(problem, 3, usual_forms(problem, 3), (3,)), 14)
    assert found.fits
    assert found.copies.choice == {(1, 0)}


def test_part_of_equal_layers_runs_again_if_that_is_enough() -> None:
    """One price on bytes is the price of every layer: a cut drops all of them or none."""
    layers = 24
    step = step_of(chain([10] * layers, [1.0] * layers), segments=layers)
    peak = Curve.of(Copies.of(step, frozenset())).peak
    hull = Hull(step, peak - 35)
    assert hull.best is not None
    assert hull.best.copies.cost == hull.least == 4.0  # four results of 10 bytes


def test_a_second_moment_gets_copies_behind_it() -> None:
    """`x` is read early and late in the backward; between them, `wide` leaves no room for it."""
    names = {"in": 1, "x": 10, "y": 10, "a": 1, "wide": 14, "b": 1, "late": 1}
    kinds = {"in": Kind.INPUT, "x": Kind.SAVED, "y": Kind.SAVED}
    buffers = tuple(
        Buffer(n, s, kinds.get(n, Kind.TEMPORARY), Home.USER if n == "in" else Home.ARENA)
        for n, s in names.items()
    )
    ops = (
        Op("make x", (0,), (1,), cost=1.0),
        Op("make y", (1,), (2,), cost=2.0),
        Op("early", (1, 2), (3,), phase=1, cost=1.0),
        Op("widen", (3,), (4,), phase=1, cost=1.0),
        Op("narrow", (4,), (5,), phase=1, cost=1.0),
        Op("last", (1, 5), (6,), phase=1, cost=1.0),
    )
    problem = Problem("two moments", buffers, ops)
    step = Step(problem, 2, usual_forms(problem, 2), (2, 3, 4, 5))
    hull = Hull(step, 21)
    assert hull.best is not None
    assert hull.best.copies.choice == {(0, 3)}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=3, max_size=5),
    st.integers(1, 3),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=6),
)
def test_a_row_is_the_live_bytes_at_its_moment(
    sizes: list[int], segments: int, wanted: set[tuple[int, int]]
) -> None:
    """Where a copy stands depends on the other copies: on who reads it first."""
    step = step_of(chain(sizes, [1.0] * len(sizes)), segments)
    program = Program(Reach(step, len(step.problem.ops)))
    copies = Copies.of(step, frozenset(wanted & program.again.keys()))
    curve = Curve.of(copies)
    place = {(p.op, p.segment): p.before for p in copies.placed}
    moments = [(place[w], w[0]) if isinstance(w, tuple) else (w, AT) for w in curve.what]
    rows = [program.row(moment) for moment in moments]
    for copy, again in program.again.items():
        program.model.add(again == int(copy in copies.choice))
    program.model.minimize(sum(program.kept.values()))
    solver = CpSolver()
    assert solver.solve(program.model) == OPTIMAL
    assert [value_of(row, solver) for row in rows] == curve.live


def test_a_chain_of_copies_may_be_longer_than_python_may_recurse() -> None:
    """A refusal for GPT-2 XL ended in a RecursionError: copies read copies read copies."""
    n = 2 * sys.getrecursionlimit()
    step = step_of(chain([1] * n, [1.0] * n), segments=1)
    program = Program(Reach(step, n))
    row = program.row((step.boundary + n // 2, 0))  # copies of the first half may stand there
    for again in program.again.values():
        program.model.add(again == 1)
    solver = CpSolver()
    assert solver.solve(program.model) == OPTIMAL
    assert value_of(row, solver) == n // 2 + 1  # copies that are not read yet, and one gradient
