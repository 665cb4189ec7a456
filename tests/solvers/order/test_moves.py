"""What a move would change, against an order that is measured anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.bench.layered import layered_graph
from roam.core.problem import Problem
from roam.solvers.order.handing_over import room_for
from roam.solvers.order.moves import make, try_move, undo
from roam.solvers.order.present_order import present
from roam.solvers.order.tables import Ints, Tables, tables
from tests.core.strategies import dense_problems, problems


def excess(during: Ints, limit: int) -> int:
    return int(np.maximum(during - limit, 0).sum())


def check_moves(phase: Tables, seed: int, moves: int) -> int:
    """Makes random moves or undoes them. Returns how many were made."""
    draw, n, made = np.random.default_rng(seed), len(phase.makes), 0
    now, room = present(phase, np.arange(n)), room_for(phase)
    for number in range(1, 1 + moves):
        k, target = draw.integers(n, size=2)
        if now.time[k] == target:
            continue
        before = [a.copy() for a in now]
        was, limit = now.during.copy(), int(0.8 * now.during.max())
        tried = try_move(phase, now, room, number, k, target, limit)
        assert not room.ends.any()
        if tried.moving and draw.random() < 0.5:
            make(now, room, tried)
            assert tried.live == now.during.sum() - was.sum()
            assert tried.excess == excess(now.during, limit) - excess(was, limit)
            known = present(phase, now.order.copy())
            made += 1
        else:
            undo(phase, now, room, tried)
            known = before
        assert all((a == b).all() for a, b in zip(now, known, strict=True))
    return made


@settings(max_examples=50)
@given(st.one_of(problems(max_ops=9), dense_problems(max_ops=7)), st.integers(0, 99))
def test_a_move_changes_what_measuring_the_new_order_finds(problem: Problem, seed: int) -> None:
    for phase, ops in enumerate(problem.phases):
        if ops:
            check_moves(tables(problem, phase), seed, moves=12)


def test_moves_of_a_wide_graph() -> None:
    assert check_moves(tables(layered_graph(60, width=0.4, seed=1), 0), 3, moves=600) > 50
