"""Synthetic training graphs are what they say: of that size, and worth reordering."""

import pytest

from roam.bench.synthetic import training_graph
from roam.core.lifetime import live_curve
from roam.core.problem import Home, Kind
from roam.solvers.baselines import HEURISTICS


@pytest.mark.parametrize("ops", [10, 100, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_as_large_as_asked(ops: int, seed: int) -> None:
    problem = training_graph(ops, seed)
    assert ops <= len(problem.ops) <= ops + 21
    assert len(problem.phases) == 2
    assert training_graph(ops, seed).fingerprint == problem.fingerprint
    assert training_graph(ops, seed + 1).fingerprint != problem.fingerprint


def test_every_weight_is_folded_after_its_last_reader() -> None:
    problem = training_graph(100)
    weights = [b for b, x in enumerate(problem.buffers) if x.kind is Kind.PARAMETER]
    assert weights
    for b in weights:
        *readers, fold = problem.users[b]
        assert problem.ops[fold].name.startswith("fold")
        assert len(problem.ops[fold].mutates) == 3  # and two states
        assert set(readers) <= set(problem.predecessors[fold])
        assert len(readers) == 2  # forward and backward


def test_program_order_is_a_poor_one() -> None:
    problem = training_graph(500)
    program = max(live_curve(problem, range(len(problem.ops)), {}))
    order = [i for phase in (0, 1) for i in HEURISTICS["lescea"](problem, phase)]
    assert max(live_curve(problem, order, {})) < program / 3


def test_only_the_loss_is_the_users() -> None:
    problem = training_graph(50)
    assert [b.kind for b in problem.buffers if b.kept] == [Kind.OUTPUT]
    assert {b.home for b in problem.buffers} == set(Home)
