"""Step plans in files, and what they hold at their worst moment."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest
from msgspec.structs import replace

from roam.core.check import check
from roam.core.errors import FileFormatError, FileVersionError, GraphMismatchError
from roam.core.plan import committed_curve
from roam.core.problem import Kind
from roam.inspect.breakdown import Part, breakdown, breakdown_from_json
from roam.inspect.moment import MemoryItem, held_at, worst_moment
from roam.inspect.recomputed import Again, Recomputed
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from tests.inspect.steps import MIB, chain, step


def test_the_steps_of_these_tests_are_valid() -> None:
    for made in (step(), chain(5)):
        for problem, plan in made.planned:
            check(problem, plan)


def test_a_file_holds_the_whole_step() -> None:
    unplanned = GraphRecord("other", reason="op 'nonzero' has a size that only the data decides")
    whole = StepPlan((*step().graphs, unplanned))
    assert StepPlan.from_json(whole.to_json()) == whole


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b'{"roam_plan": 1}', step().to_json()[:-9]])
def test_what_is_no_file_is_refused(text: bytes) -> None:
    with pytest.raises(FileFormatError, match="not a whole step plan file"):
        StepPlan.from_json(text)


def test_a_file_of_another_version_is_refused() -> None:
    text = step().to_json().replace(b'"roam_step":1', b'"roam_step":99')
    with pytest.raises(FileVersionError, match="version 99"):
        StepPlan.from_json(text)


def test_a_plan_beside_another_graph_is_refused() -> None:
    [[_, plan]], [[problem, _]] = step().planned, step(saved=3).planned
    mixed = StepPlan((GraphRecord("mixed", problem, plan),))
    with pytest.raises(GraphMismatchError, match="the plan is of 'step'"):
        StepPlan.from_json(mixed.to_json())


def test_a_problem_that_is_no_program_is_refused() -> None:
    [[problem, _]] = step().planned
    text = step().to_json().replace(b'"mul"', b'"mm"')
    with pytest.raises(FileFormatError, match="two ops"):
        StepPlan.from_json(text)
    assert [o.name for o in problem.ops].count("mm") == 1


@pytest.mark.parametrize("made", [step(), step(saved=7), chain(4)])
def test_the_items_add_up_at_every_moment(made: StepPlan) -> None:
    [[problem, plan]] = made.planned
    curve = committed_curve(problem, plan.order, plan.reuse, plan.offsets, plan.blocks)
    assert [sum(h.size for h in held_at(problem, plan, t)) for t in range(len(curve))] == curve
    assert curve[worst_moment(problem, plan)] == plan.peak


def test_the_items_of_the_worst_moment() -> None:
    [[problem, plan]] = step().planned
    assert worst_moment(problem, plan) == 1
    assert held_at(problem, plan, 1) == [
        MemoryItem("outside", "temporary", "head", "mm", 3 * MIB, 1, 3),
        MemoryItem("saved", "saved", "encoder", "embed", 2 * MIB, 0, 3),
        MemoryItem("hidden", "temporary", "head", "mm", MIB, 1, 3),
        MemoryItem("fragmentation", "fragmentation", "", "", MIB, 1, 2),
        MemoryItem("mm", "scratch", "head", "mm", 512, 1, 2),
    ]


def test_where_one_buffer_becomes_another_it_is_the_other() -> None:
    [[problem, plan]] = step().planned
    assert [h.name for h in held_at(problem, plan, 2)][2] == "over"


def test_a_breakdown_adds_up_to_the_total() -> None:
    made = step()
    found = breakdown(made)
    assert found.total == made.total == sum(p.size for p in found.parts)
    assert found.peak == sum(p.size for p in found.parts if not p.persistent)
    assert Part("head", "state", True, 4 * MIB) in found.parts
    assert Part("encoder", "saved", False, 2 * MIB) in found.parts
    assert made.peak_by_kind == {Kind.TEMPORARY: 4 * MIB, Kind.SAVED: 2 * MIB}


def test_what_several_graphs_use_counts_once() -> None:
    twice = StepPlan(step().graphs * 2)
    assert twice.persistent == step().persistent == breakdown(twice).persistent
    # in the second forward, beside the block and `outside` of the first
    assert twice.peak == step().peak + 7 * MIB == breakdown(twice).peak


def test_graphs_without_a_plan_are_not_hidden() -> None:
    odd = GraphRecord("odd", reason="unknown")
    assert str(StepPlan((*step().graphs, odd))).startswith("1 graph (and 1 without a plan, not")
    assert str(StepPlan(step().graphs * 2)).startswith("2 graphs, total")


def test_a_breakdown_has_a_part_a_line() -> None:
    found = breakdown(step())
    text = found.to_json("test_it")
    read, test = breakdown_from_json(text)
    assert (replace(read, lower_bound=read.stated, stated=0), test) == (found, "test_it")
    assert read.to_json("test_it") == text
    assert text.count(b'"module"') == len(found.parts) == text.count(b"{ ")
    assert msgspec.json.decode(text)["roam_breakdown"] == 1


def test_what_is_no_breakdown_is_refused() -> None:
    with pytest.raises(FileFormatError, match="not a whole breakdown"):
        breakdown_from_json(b"{}")
    with pytest.raises(FileVersionError, match="version 7"):
        breakdown_from_json(b'{"roam_breakdown": 7}')


def test_a_file_keeps_what_a_budget_made_run_again() -> None:
    again = (Again("0.mlp", 2, 0.25, 4096), Again("", 1, 0.25, 0))
    [graph] = step().graphs
    told = Recomputed("60%", 100, 200, 4.0, 0.1, again, left=7, beside=3)
    made = StepPlan((dataclasses.replace(graph, recomputed=told),))
    read = StepPlan.from_json(made.to_json())
    assert read.graphs[0].recomputed == told
    assert (read.extra_time, read.extra_time_bound) == (0.5, 0.1)
    assert (read.extra_share, read.extra_share_bound) == (0.125, 0.025)
    assert "0.mlp (2 ops)" in str(read.explain())
    older = json.loads(step().to_json())
    del older["graphs"][0]["recomputed"]
    assert StepPlan.from_json(json.dumps(older)).extra_share == 0
    spoiled = json.loads(made.to_json())
    spoiled["graphs"][0]["recomputed"]["modules"][0]["ops"] = -1
    with pytest.raises(FileFormatError, match="impossible budget"):
        StepPlan.from_json(json.dumps(spoiled))
