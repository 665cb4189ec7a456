"""A budget in bytes is hard: together with all that is held, of one graph or of several."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import roam
from roam.core.errors import BudgetError
from roam.inspect.measure import measure_peak
from roam.runtime.held_memory import Held
from roam.runtime.held_memory import Run as HeldRun
from tests.behaviour.budget_loops import (
    ROWS,
    SLACK,
    WIDTH,
    Loop,
    Loss,
    LossApart,
    accumulated,
    again,
    blocks,
    broken,
    hooked,
    kept,
    loss_apart,
    once,
    persistent_bytes,
    trained,
    twice,
)
from tests.helpers import assert_equal, random, unfused

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("nothing_is_pending")


@pytest.fixture(scope="module")
def least() -> int:
    """A size that the planned step takes to the byte: anything beside it is too much."""
    trained(blocks, once, "roam", budget="70%")
    return roam.report().step.total


@pytest.mark.parametrize(
    ("loop", "names"),
    [
        pytest.param(twice, "saved for a backward", marks=slow),
        (again, "retain_graph=True"),
        pytest.param(accumulated, "gradients", marks=slow),
        (kept, "saved tensor hooks"),
        pytest.param(hooked, "saved tensor hooks", marks=slow),
    ],
)
def test_a_size_is_never_exceeded_but_an_error_names_what_is_held(
    loop: Loop, names: str, least: int
) -> None:
    torch.manual_seed(0)
    model, x = Loss(blocks()), random(ROWS, WIDTH)
    run = unfused(model, budget=least)

    def refused() -> None:
        with pytest.raises(BudgetError, match=names) as caught:
            loop(run, model, x)
        found = caught.value.found
        assert found is not None
        assert found > caught.value.budget == least

    persistent = sum(p.nbytes for p in model.parameters()) + x.nbytes
    peak = measure_peak(refused).peak
    clones = x.nbytes if loop is twice else 0  # x + 1
    if loop is not hooked:  # whose copies are the loop's own
        assert persistent + peak <= least + clones + SLACK


def test_a_size_that_has_room_for_all_of_it_is_kept() -> None:
    expected, without = trained(blocks, twice, "roam")
    persistent = persistent_bytes(blocks)
    found, peak = trained(blocks, twice, "roam", budget=persistent + without)
    assert_equal(found, expected)
    assert peak == without


def test_several_graphs_share_a_size() -> None:
    expected, _ = trained(broken, once, "aot_eager")
    _, without = trained(broken, once, "roam")
    persistent = persistent_bytes(broken)
    budget = persistent + without * 9 // 10
    found, peak = trained(broken, once, "roam", budget=budget)
    assert_equal(found, expected)
    assert persistent + peak <= budget
    with pytest.raises(BudgetError, match=r"graphs that ran before it|held beside it"):
        trained(broken, once, "roam", budget=persistent + without * 6 // 10)


@pytest.mark.parametrize("share", [pytest.param(70, marks=slow), 50])
def test_a_graph_that_others_follow_may_save_what_it_must(share: int) -> None:
    """Its saved tensors did not fit into an eighth of the budget, so it was refused.

    The error named a smallest total that was below the budget.
    """
    expected, _ = trained(loss_apart, once, "aot_eager")
    _, without = trained(loss_apart, once, "roam")
    persistent = persistent_bytes(loss_apart)
    budget = persistent + without * share // 100
    found, peak = trained(loss_apart, once, "roam", budget=budget)
    assert_equal(found, expected)
    assert persistent + peak <= budget


def test_what_one_graph_hands_to_the_next_is_counted_once() -> None:
    """The first graph's output was counted again, as an input that is there before the step."""
    torch.manual_seed(0)
    model, x = Loss(blocks(LossApart)), random(ROWS, WIDTH)
    run = unfused(model, budget="1GiB")
    loss = run(x)
    held = Held.beside(HeldRun("another"), earlier=True)
    last = max((mark.run for mark in held.marks), key=lambda other: other.number)
    assert last.graph != held.pending[0].graph
    assert loss.requires_grad
    assert sum(last.persistent.values()) == 0


def test_garbage_is_collected_before_a_run_is_refused() -> None:
    """Tensors in a cycle of Python objects are held until someone collects it."""
    persistent = persistent_bytes(blocks)
    _, without = trained(blocks, once, "roam")
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x = Loss(blocks()), random(ROWS, WIDTH)
    run = unfused(model, budget=persistent + without + SLACK)
    gc.disable()
    try:
        cycle: list[Any] = [run(x)]
        cycle.append(cycle)
        del cycle
        run(x).backward()
    finally:
        gc.enable()


def test_a_graph_without_a_backward_is_limited_by_a_size_alone() -> None:
    model, x = blocks().eval(), random(ROWS, WIDTH)
    with torch.no_grad():
        unfused(model, budget="50%")(x)
        torch._dynamo.reset()
        persistent = sum(p.nbytes for p in model.parameters()) + x.nbytes
        with pytest.raises(BudgetError, match="no backward"):
            unfused(model, budget=persistent + x.nbytes)(x)


def test_a_larger_size_than_the_one_compiled_for_is_refused_by_itself() -> None:
    """A graph of dynamic sizes has a plan for each of them. A smaller one is within the budget."""
    model, x = Loss(blocks()), random(ROWS, WIDTH)
    torch._dynamo.mark_dynamic(x, 0)
    torch._dynamo.reset()
    small = roam.plan(model, x, loss=lambda y: y, budget="75%", lowering="aten").total
    run = unfused(model, budget=small)
    run(x).backward()
    run(x[: ROWS // 2]).backward  # noqa: B018
    with pytest.raises(BudgetError, match="compiled for other sizes"):
        run(torch.cat((x, x)))


def test_an_offline_plan_shares_it_too() -> None:
    model, x = Loss(broken()), random(ROWS, WIDTH)
    whole = roam.plan(model, x, loss=lambda y: y, lowering="aten")
    found = roam.plan(model, x, loss=lambda y: y, budget=whole.total, lowering="aten")
    assert found.total <= whole.total
    assert [g.recomputed.beside > 0 for g in found.graphs if g.recomputed] == [
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(BudgetError, match="graphs that ran before it"):
        roam.plan(model, x, loss=lambda y: y, budget=whole.total * 6 // 10, lowering="aten")
