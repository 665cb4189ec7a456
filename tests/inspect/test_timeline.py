"""When ops and transfers run, drawn: every figure can be checked on paper."""

from __future__ import annotations

import pytest

from roam.core.edits import Load, Offload, apply
from roam.core.errors import OfflineError
from roam.core.problem import Lane, Tier
from roam.inspect.moved import Moved
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.inspect.timeline import StepTimeline
from tests.core.strategies import stacked_plan
from tests.inspect.steps import step
from tests.solvers.offload.test_choose import chain


def moved() -> StepPlan:
    """Three layers of 100 bytes and a second; h0 is written from second 1 to 5, in front of f2."""
    edit = Offload("h0", Tier.FILE, (Load(("b0",), "b1"),), "", "f2")
    problem = apply(chain([100] * 3).problem, [edit])
    told = Moved("/tier", (), without=302, bound=102, step=6.0, write=25.0, read=50.0)
    plan = stacked_plan(problem, tuple(range(len(problem.ops))))
    return StepPlan((GraphRecord("chain", problem, plan, moved=told, machine="mine"),))


def test_in_text_a_column_is_an_eightieth_of_the_step() -> None:
    """It takes 10 s: f0, f1, a stall of 3 s, f2, b2, b1, a stall of 1 s, b0."""
    lines = str(moved().simulated()).splitlines()
    assert lines == [
        "chain: 10.0 s (simulated: mine), 4.00 s of it stalled; "
        "at most 202 B alive, at least 102 B",
        f"          0 s{'':45}|backward, 6.00 s{'':9}10.0 s",
        f"compute   {'█' * 16}{' ' * 24}{'█' * 24}{' ' * 8}{'█' * 8}",
        f"copy_out  {' ' * 8}{'█' * 32}{' ' * 40}",
        f"copy_in   {' ' * 56}{'█' * 16}{' ' * 8}",
        lines[-1],
    ]
    assert lines[-1].startswith("alive     ▄▄▄▄▄▄▄▄████")


def test_the_picture_has_a_bar_for_each_transfer_and_each_stall() -> None:
    found = moved().simulated()
    assert found.spans(Lane.COPY_IN).tolist() == [[7, 9]]
    lanes, live = found.figure().axes
    stalls = [p.get_extents() for p in lanes.collections[-1].get_paths()]
    assert [(box.x0, box.x1) for box in stalls] == [(2, 5), (8, 9)]
    assert live.get_xlim() == (0, 10)


def test_without_costs_there_is_no_timeline() -> None:
    with pytest.raises(OfflineError, match=r"roam\.plan"):
        step().simulated()
    with pytest.raises(OfflineError, match="no plan"):
        StepTimeline.of(GraphRecord("broken", reason="a reason"))
