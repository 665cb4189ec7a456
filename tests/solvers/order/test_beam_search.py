"""Beams, narrow and wide, against all orders there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.bench.layered import layered_graph
from roam.core.lifetime import live_peak
from roam.core.problem import Problem
from roam.solvers.answer import Outcome
from roam.solvers.jit import COMPILED
from roam.solvers.order import beam_search
from roam.solvers.order.beam_search import FOUND, GAVE_UP, NONE
from roam.solvers.order.levels import Net, net
from roam.solvers.order.progress import Phase
from roam.solvers.order.tables import Ints
from roam.solvers.order.widening import Beams, BeamSearch, widen
from roam.solvers.work import Work
from tests.core.strategies import dense_problems, problems
from tests.solvers.order.test_valleys import kept, layers, least, peak_of

WIDE = 10**6


def search(seen: Net, most: int, width: int, steps: int) -> tuple[int, Ints, int, int]:
    return beam_search.search(seen, most, width, steps)


@settings(max_examples=50)
@given(problems(max_ops=8) | dense_problems(), st.booleans(), st.integers(-20, 100))
def test_a_beam_that_leaves_nothing_out_is_right(
    problem: Problem, mirrored: bool, off: int
) -> None:
    for phase, ops in enumerate(problem.phases):
        lowest = least(problem, phase) if ops else 0
        seen = net(Phase(problem, phase, mirrored=mirrored))
        for most in (lowest - 1, lowest, lowest + off) if ops else ():
            how, found, needed, _ = search(seen, most, WIDE, WIDE)
            if most >= lowest:
                order = [ops[k] for k in (found[::-1] if mirrored else found)]
                assert (how, sorted(order)) == (FOUND, ops)
                assert peak_of(problem, order) <= most
            else:
                assert how == NONE
                assert most < needed <= lowest


@settings(max_examples=50)
@given(dense_problems(), st.sampled_from((1, 2)), st.integers(-1, 30))
def test_a_narrow_beam_may_give_up_and_is_never_wrong(
    problem: Problem, width: int, off: int
) -> None:
    phase = len(problem.phases) - 1
    most = least(problem, phase) + off
    answer = BeamSearch(problem, phase).keeps_within(most, width, Work())
    if answer.status is Outcome.FITS:
        assert answer.found is not None
        assert peak_of(problem, answer.found) <= most
    elif answer.status is Outcome.DOES_NOT_FIT:
        assert most < answer.bound <= most - off
    else:
        assert answer.found is None


def test_sets_are_forgotten_at_a_low_set() -> None:
    """Each layer ends in a valley: a beam of four sets is wide enough for any number of layers."""
    seen = net(Phase(layers(50), 0))
    assert search(seen, 35, 4, WIDE)[0] == FOUND
    assert (search(seen, 34, 4, WIDE)[0], search(seen, 34, 4, WIDE)[2]) == (NONE, 35)


def test_steps_limit_the_search() -> None:
    assert search(net(Phase(layers(50), 0)), 35, 4, 3)[0] == GAVE_UP


def test_the_end_that_answers_is_asked_first() -> None:
    search = BeamSearch(kept(12), 1)
    search.ends.reverse()  # forward, all subsets have to be looked at
    assert search.keeps_within(254, 20, Work()).bound == 255
    assert search.ends[0].mirrored


def test_wider_beams_meet_the_bound() -> None:
    problem = layered_graph(120, width=0.43, seed=5)
    program = list(range(len(problem.ops)))
    found = widen(problem, 0, program, lambda order: live_peak(problem, order), 0)
    assert found.value == found.bound == live_peak(problem, found.found)
    narrow = widen(
        problem, 0, program, lambda order: live_peak(problem, order), 0, beams=Beams((1,))
    )
    assert narrow.bound < found.value < narrow.value < live_peak(problem, program)


@settings(max_examples=30)
@given(problems(max_ops=6))
def test_what_is_settled_is_the_lowest_peak_with_all_reuse_granted(problem: Problem) -> None:
    for phase, ops in enumerate(problem.phases):
        if ops:
            granted = lambda order: peak_of(problem, order)  # noqa: E731
            found = widen(problem, phase, list(ops), granted, 0)
            assert found.bound == least(problem, phase) == found.value == granted(found.found)


@pytest.mark.skipif(not COMPILED, reason="numba is not installed: there is one way to run it")
def test_compiled_and_interpreted_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layered_graph(40, width=0.43, seed=1)
    seen = net(Phase(problem, 0, mirrored=True))
    most = live_peak(problem, range(len(problem.ops))) * 9 // 10
    compiled = search(seen, most, 5, 10**6)
    for name, function in list(vars(beam_search).items()):
        if hasattr(function, "py_func"):
            monkeypatch.setattr(beam_search, name, function.py_func)
    how, found, needed, done = search(seen, most, 5, 10**6)
    assert (how, needed, done) == (compiled[0], compiled[2], compiled[3])
    assert np.array_equal(found, compiled[1])
