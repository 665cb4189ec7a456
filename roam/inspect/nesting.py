"""Finds the worst moment of a step of several graphs, which a model with graph breaks has.

    forward 1 ── forward 2 ── forward 3 ── backward 3 ── backward 2 ── backward 1
                     │                                       │
      held too: what graph 1 saved         held too: what graph 1 saved, graph 3's gradients

The graphs of a step are nested. While a graph runs forward, the tensors that earlier graphs saved
are held too. While it runs backward, the gradients and outputs of later graphs are held as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.budget import Beside
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Home, Problem
from roam.inspect.moment import MemoryItem, held_at, held_before
from roam.inspect.record import GraphRecord

Planned = tuple[Problem, Plan]


def held_at_worst(graphs: Sequence[Planned]) -> list[MemoryItem]:
    """Returns the items that a step holds at its worst moment.

    graphs: problem and plan of each, in the order in which the forwards run.
    """
    turns = [turn(problem) for problem, _ in graphs]
    saved = [held_before(*graph, t) for graph, t in zip(graphs, turns, strict=True)]
    left = [held_before(problem, plan, len(plan.order)) for problem, plan in graphs]
    worst, most = [], 0
    for i, (problem, plan) in enumerate(graphs):
        curve = plan.committed(problem)
        forward, backward = range(turns[i]), range(turns[i], len(curve))
        for times, others in ((forward, saved[:i]), (backward, saved[:i] + left[i + 1 :])):
            t = max(times, key=curve.__getitem__, default=None)
            held = sum(item.size for items in others for item in items)
            if t is not None and held + curve[t] > most:
                worst, most = [held_at(problem, plan, t), *others], held + curve[t]
    return [item for items in worst for item in items]


def beside(before: Sequence[GraphRecord], problem: Problem) -> Beside:
    """Returns what the graphs of a step take while a later one runs.

    Args:
        before: the records of the graphs whose forwards ran before.
        problem: the later graph's.
    """
    found = Beside()
    own = {b.name for b in problem.buffers if b.home is Home.USER}
    for record in before:
        if record.problem is not None and record.plan is not None:
            edited, plan = record.plan.to_edited(record.problem)
            left = left_by_forward(edited, plan)
            known = record.recomputed
            others = {b.name: b.persistent for b in edited.buffers if b.name not in own}
            own |= others.keys()
            found = Beside(
                found.now + left,
                found.without + (left if known is None else known.left),
                found.persistent + sum(others.values()),
            )
    return found


def left_by_forward(problem: Problem, plan: Plan) -> Bytes:
    """Returns the transient bytes that there are between forward and backward."""
    return sum(item.size for item in held_before(problem, plan, turn(problem)))


def turn(problem: Problem) -> int:
    """Returns the time at which the backward begins, the end of the order if there is none."""
    return problem.spans[0].stop if problem.spans else 0
