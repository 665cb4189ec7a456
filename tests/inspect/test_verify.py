"""Bounds computed again by networkx: the same as the solvers', and never above any order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from roam.bench.layered import layered_graph
from roam.bench.order_zoo import ORDER
from roam.bench.order_zoo import captured as captured_order
from roam.bench.synthetic import training_graph
from roam.bench.zoo import TINY, loss_of
from roam.core.bounds import must_live, must_live_bound
from roam.core.check import check
from roam.core.errors import FigureError
from roam.core.lifetime import find_reuse, live_curve
from roam.core.plan import Plan, Status
from roam.core.problem import Buffer, Op, Problem
from roam.core.proof import Cut, Kept, MustLive, Search, Unknown
from roam.inspect.verify import Steps, verify
from roam.offline import problems as captured
from roam.planner import Settings, plan
from roam.solvers.bound.min_cut import Cuts
from tests.core.strategies import GRAPHS, all_orders, dense_problems, graph, problems, stacked_plan

QUICK = Settings(seconds=1.0)
MODELS = ["gpt2", *(pytest.param(n, marks=pytest.mark.slow) for n in TINY if n != "gpt2")]
BENCH = ("vgg11-b1", "mnasnet-b1", "mobilenet-v2-b1", "bert-base-b1", "gpt2-small-b1")
ROWS = ["alexnet-b1", *(pytest.param(n, marks=pytest.mark.slow) for n in BENCH)]


def assert_verified(problem: Problem) -> None:
    """Whatever proves the plan's bound, networkx finds it, but for what a search alone proves."""
    found = plan(problem, QUICK)
    again = verify(problem, found)
    assert again.holds
    assert again.independently or isinstance(found.proof, Search)
    steps, cuts = Steps(problem), Cuts(problem)
    assert must_live(problem) == max(
        [steps.kept(), *(steps.alive_in_any_case(i) for i in _some_ops(problem))]
    )
    for op in _some_ops(problem, at_most=5):
        least, bound = steps.least_alive(op), cuts.bound(op)
        assert least >= bound if problem.ops[op].over else least == bound


def _some_ops(problem: Problem, at_most: int = 40) -> Iterator[int]:
    """The op that must live is among them."""
    proof = must_live_bound(problem).proof
    yield from [proof.op] if isinstance(proof, MustLive) else []
    yield from range(0, len(problem.ops), max(1, len(problem.ops) // at_most))


@settings(max_examples=40)
@given(problems(max_ops=6))
def test_no_order_runs_an_op_below_what_networkx_proves(problem: Problem) -> None:
    steps, cuts = Steps(problem), Cuts(problem)
    orders = list(all_orders(problem))
    curves = [live_curve(problem, order, find_reuse(problem, order)) for order in orders]
    for op in range(len(problem.ops)):
        certain, least = steps.alive_in_any_case(op), steps.least_alive(op)
        assert certain <= least
        assert cuts.bound(op) <= least
        assert all(least <= c[order.index(op)] for order, c in zip(orders, curves, strict=True))


@settings(max_examples=40)
@given(dense_problems())
def test_where_nothing_is_written_in_place_both_are_the_same(problem: Problem) -> None:
    steps, cuts = Steps(problem), Cuts(problem)
    assert [steps.least_alive(i) for i in range(len(problem.ops))] == [
        cuts.bound(i) for i in range(len(problem.ops))
    ]


@settings(max_examples=40)
@given(problems(max_ops=7))
def test_must_live_is_the_most_of_all_ops(problem: Problem) -> None:
    steps = Steps(problem)
    alive = [steps.alive_in_any_case(i) for i in range(len(problem.ops))]
    assert must_live(problem) <= max([steps.kept(), *alive])
    assert verify(problem, plan(problem, QUICK)).holds


@pytest.mark.parametrize("name", GRAPHS)
def test_golden_problems(name: str) -> None:
    assert_verified(graph(name))


@pytest.mark.parametrize("seed", range(5))
def test_random_layered_graphs(seed: int) -> None:
    assert_verified(layered_graph(60, width=0.3 + 0.05 * seed, seed=seed))


def test_a_synthetic_training_graph() -> None:
    assert_verified(training_graph(300))


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo(name: str) -> None:
    for problem in captured(TINY[name].build(), loss=loss_of, **TINY[name].batch()):
        assert_verified(problem)


@pytest.mark.parametrize("name", ROWS)
def test_the_order_bench(name: str) -> None:
    for folds in (False, True):
        assert_verified(captured_order(ORDER[name], folds=folds))


def chains() -> Problem:
    """Two chains of copies: 30 bytes are alive at any moment between, and 20 in any case."""
    buffers = tuple(Buffer(f"{c}{k}", 10) for c in "ab" for k in range(3))
    ops = [Op("start", creates=(0, 3))]
    for first in (0, 3):
        ops += [Op(f"op{first + k}", reads=(first + k,), creates=(first + k + 1,)) for k in (0, 1)]
    ops.append(Op("end", reads=(2, 5)))
    return Problem("chains", buffers, tuple(ops))


def proven_by(proof: Kept | MustLive | Cut | Search | Unknown, bound: int) -> Plan:
    made = stacked_plan(chains(), (0, 1, 2, 3, 4, 5))
    return replace(made, lower_bound=bound, proof=proof)


@pytest.mark.parametrize(
    ("proof", "proves"),
    [(Cut(1), 30), (MustLive(0), 20), (Kept(), 0), (Search(0), 30), (Unknown(), 30)],
)
def test_each_reason_is_computed_again(
    proof: Kept | MustLive | Cut | Search | Unknown, proves: int
) -> None:
    again = verify(chains(), proven_by(proof, proves))
    assert again.computed == proves
    assert again.independently
    assert str(again).endswith("verified by networkx")


@pytest.mark.parametrize(("proof", "what"), [(MustLive(0), "must-live at start"), (Kept(), "kept")])
def test_a_bound_above_its_reason_is_refused(proof: MustLive | Kept, what: str) -> None:
    found = proven_by(proof, 25)
    check(chains(), found)
    with pytest.raises(FigureError, match=rf"lower bound of 25 bytes \({what}\)"):
        verify(chains(), found)


def test_what_a_search_alone_has_proven_is_said() -> None:
    """The middle of three layers cannot be cheap, though each of its ops can."""
    problem = graph("diamond")
    found = plan(problem)
    assert found.status is Status.OPTIMAL
    assert isinstance(found.proof, Search)
    again = verify(problem, found)
    assert (again.holds, again.independently) == (True, False)
    assert "proven again by roam's own search; networkx alone proves" in str(again)
    stated = verify(problem, found.with_proof(must_live(problem)))
    assert not stated.holds
    assert "not proven again" in str(stated)
