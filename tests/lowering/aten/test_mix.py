"""A budget is kept by copies, by transfers, or by both: whatever takes the least extra time."""

from __future__ import annotations

import pytest

import roam
from roam.core.errors import BudgetError
from roam.inspect.step_plan import StepPlan
from tests.behaviour.small_nets import Loss, blocks, rows


def planned(write: float | None, budget: str = "50%") -> StepPlan:
    """Returns the plan of a net, with a disk of so many bytes a second or without any."""
    to = None if write is None else roam.OffloadTo("/no/such/folder", write=write, smallest=256)
    few = {"planning_seconds": 1}  # of each of the many plans
    return roam.plan(Loss(blocks), rows(), lowering="aten", budget=budget, offload=to, options=few)


@pytest.mark.parametrize(
    ("write", "moves"), [(1e13, True), pytest.param(1.0, False, marks=pytest.mark.slow)]
)
def test_a_mix_costs_no_more_than_copies_alone_and_no_less_than_its_bound(
    write: float, moves: bool
) -> None:
    alone, found = planned(None), planned(write)
    assert found.extra_time_bound <= found.extra_time <= alone.extra_time
    (graph,) = found.graphs
    assert (graph.moved is not None) == moves


@pytest.mark.slow
def test_a_refusal_says_what_moved_and_what_nothing_goes_below() -> None:
    with pytest.raises(BudgetError, match=r"moved to /no/such/folder.*no transfer goes below") as e:
        planned(1e13, budget="5%")
    assert e.value.found is not None
    assert e.value.least <= e.value.found
