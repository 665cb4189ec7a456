from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from roam.core.bounds import must_live
from roam.core.check import check
from roam.core.lifetime import live_peak
from roam.core.machine import Blocking
from roam.core.plan import Plan, Status
from roam.core.problem import Buffer, Kind, Op, Problem
from roam.planner import InArena, SavedBlocks, Settings, plan, replaced_peak
from roam.solvers.layout.arena import NOTHING_PLACED
from roam.solvers.order.best_order import best_order
from roam.solvers.order.greedy import CANDIDATES
from tests.core.strategies import GRAPHS, all_orders, graph, problems
from tests.solvers.layout.test_saved_layout import saving

NO_WORK = Settings(seconds=1e-12)
some_settings = st.sampled_from((Settings(), Settings(placement=InArena(hold=True)), NO_WORK))


@given(problems(max_ops=9), some_settings)
def test_every_plan_keeps_its_promises(problem: Problem, settings: Settings) -> None:
    found = plan(problem, settings)
    check(problem, found)
    assert found.lower_bound >= must_live(problem)
    assert found.lower_bound <= found.live_peak <= found.peak <= replaced_peak(problem)
    assert found.persistent == problem.persistent
    assert found.status is (Status.OPTIMAL if found.gap == 0 else Status.FEASIBLE)


@pytest.mark.parametrize(("live", "limit"), [(96_000, 96_000), (95_950, 96_000), (60_000, 60_060)])
def test_gaps_cost_a_thousandth_of_the_peak_and_no_more_than_the_order_saves(
    live: int, limit: int
) -> None:
    problem = saving(8, 12_000, 48_000)
    assert live_peak(problem, range(len(problem.ops))) == 96_000
    staggered = SavedBlocks(blocking=Blocking(stagger=1536))
    assert staggered.limit(problem, live) == limit
    assert SavedBlocks().limit(problem, live) == InArena().limit(problem, live) == live


@given(problems(max_ops=9), st.booleans())
def test_same_problem_same_plan(problem: Problem, hold: bool) -> None:
    settings = Settings(placement=InArena(hold))
    again = Problem(problem.name, problem.buffers, problem.ops)
    one, two = plan(problem, settings), plan(again, settings)
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)


@given(problems(max_ops=5))
def test_a_plan_called_optimal_is_the_best_of_all_orders(problem: Problem) -> None:
    found = plan(problem)
    peaks = [live_peak(problem, order) for order in all_orders(problem)]
    assert found.live_peak >= min(peaks)
    if found.status is Status.OPTIMAL:
        assert found.peak == min(peaks)


@given(problems(max_ops=9))
def test_each_phase_has_the_lowest_peak_of_its_own(problem: Problem) -> None:
    """Chosen apart, the orders of the phases are as good as the best pair of candidates."""
    order = best_order(problem).found.order
    pairs = product(CANDIDATES.values(), repeat=len(problem.phases))
    peaks = []
    for pair in pairs:
        whole = [i for phase, solve in enumerate(pair) for i in solve(problem, phase)]
        peaks.append(live_peak(problem, whole))
    assert live_peak(problem, order) <= min(peaks)


@pytest.mark.parametrize(
    ("name", "replaced", "peak", "bound", "method"),
    [
        ("chain", 300, 300, 300, "program"),
        ("diamond", 140, 140, 140, "program"),
        ("in_place", 128, 80, 80, "program"),
        ("training_step", 444, 344, 344, "program / program"),
        ("wide", 201, 102, 102, "free early"),
    ],
)
def test_tiny_graphs(name: str, replaced: int, peak: int, bound: int, method: str) -> None:
    problem = graph(name)
    found = plan(problem)
    assert replaced_peak(problem) == replaced
    assert (found.live_peak, found.lower_bound) == (peak, bound)
    assert found.method.startswith(f"{method}, ")
    assert found.seconds > 0


@pytest.mark.parametrize("name", GRAPHS)
def test_without_work_the_program_runs_as_it_was_written(name: str) -> None:
    problem = graph(name)
    found = plan(problem, NO_WORK)
    assert not found.cut_short
    assert found.order == tuple(range(len(problem.ops)))
    assert found.method.endswith(NOTHING_PLACED)
    assert found.blocks == ()


def test_nothing_to_run() -> None:
    found = plan(Problem("empty", (), ()))
    assert (found.order, found.peak, found.status) == ((), 0, Status.OPTIMAL)


def chain_with_skips(layers: int) -> Problem:
    """A training step: every layer reads the one before and, now and then, an older one; its
    backward reads what the layer saved and what comes from above, and yields a gradient.
    """
    rng = random.Random(7)
    buffers: list[Buffer] = []
    ops: list[Op] = []

    def make(name: str, kind: Kind = Kind.TEMPORARY) -> int:
        largest = 200 if kind is Kind.GRADIENT else 2000
        buffers.append(Buffer(name, 64 * rng.randint(1, largest), kind))
        return len(buffers) - 1

    outs: list[int] = []
    for k in range(layers):
        hidden, out = make(f"hidden{k}"), make(f"out{k}", Kind.SAVED)
        reads = tuple({*outs[-1:], *rng.sample(outs, min(len(outs), k % 3 == 0))})
        ops.append(Op(f"linear{k}", reads=reads, creates=(hidden,)))
        ops.append(Op(f"relu{k}", reads=(hidden,), creates=(out,), over=((out, hidden),)))
        outs.append(out)
    scores, probs = len(buffers), len(buffers) + 1
    buffers += [Buffer("scores", 2**22), Buffer("probs", 2**22, Kind.SAVED)]
    ops.append(Op("head", reads=(outs[-1],), creates=(scores,)))
    ops.append(Op("softmax", reads=(scores,), creates=(probs,), over=((probs, scores),)))
    above = probs
    for k in reversed(range(layers)):
        below, gradient = make(f"below{k}"), make(f"gradient{k}", Kind.GRADIENT)
        reads = (outs[k], above)
        ops.append(Op(f"back{k}", reads=reads, creates=(below,), phase=1))
        ops.append(Op(f"weight{k}", reads=reads, creates=(gradient,), phase=1))
        above = below
    return Problem("chain with skips", tuple(buffers), tuple(ops))


def test_thousands_of_ops() -> None:
    problem = chain_with_skips(750)
    assert len(problem.ops) == 3002
    found: Plan = plan(problem, Settings(seconds=60))
    check(problem, found)
    assert sorted(found.order) == list(range(3002))
    assert found.live_peak == found.peak < replaced_peak(problem)
    assert len(found.offsets) > 0.99 * (3 * 750 + 2)  # nearly all but the gradients
