"""Finds the worst moment of a step of several graphs, which a model with graph breaks has.

    forward 1 ── forward 2 ── forward 3 ── backward 3 ── backward 2 ── backward 1
                     │                                       │
      held too: what graph 1 saved         held too: what graph 1 saved, graph 3's gradients

The graphs of a step are nested. While a graph runs forward, the tensors that earlier graphs saved
are held too. While it runs backward, the gradients and outputs of later graphs are held as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from roam.core.budget import Beside
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import Buffer, Home, Problem, Tier
from roam.inspect.moment import MemoryItem, held_at, held_before
from roam.inspect.record import GraphRecord

UNNAMED = re.compile(r"primals_\d+|arg\d+_\d+")  # inputs that have no name in the user's model


def held_at_worst(graphs: Sequence[GraphRecord]) -> list[MemoryItem]:
    """Returns the items that a step holds at its worst moment.

    The gradient of what graph 1 made and graph 2 read is one of graph 2's results and one of the
    inputs of backward 1: while that runs, it counts there, and later it is gone.

    graphs: in the order in which the forwards run.
    """
    planned = [_edited(record) for record in graphs if record.planned]
    turns = [turn(problem) for problem, _ in planned]
    saved = [held_before(*graph, t) for graph, t in zip(planned, turns, strict=True)]
    left = [held_before(problem, plan, len(plan.order)) for problem, plan in planned]
    goes_to = _gradients_to([record for record in graphs if record.planned])
    worst, most = [], 0
    for i, (problem, plan) in enumerate(planned):
        curve = plan.committed(problem)
        forward, backward = range(turns[i]), range(turns[i], len(curve))
        later = [
            [item for item in left[j] if goes_to[j].get(item.name, -1) < i]
            for j in range(i + 1, len(planned))
        ]
        for times, others in ((forward, saved[:i]), (backward, saved[:i] + later)):
            t = max(times, key=curve.__getitem__, default=None)
            held = sum(item.size for items in others for item in items)
            if t is not None and held + curve[t] > most:
                worst, most = [held_at(problem, plan, t), *others], held + curve[t]
    return [item for items in worst for item in items]


def _edited(record: GraphRecord) -> tuple[Problem, Plan]:
    assert record.problem is not None
    assert record.plan is not None
    return record.plan.to_edited(record.problem)


def _gradients_to(graphs: Sequence[GraphRecord]) -> list[dict[str, int]]:
    """Returns, for each graph, by name of a gradient the graph whose backward it goes to."""
    place = {record.name: i for i, record in enumerate(graphs)}
    return [
        {h.gradient: place[h.graph] for h in record.handed if place.get(h.graph, i) < i}
        for i, record in enumerate(graphs)
    ]


def persistent_buffers(graphs: Sequence[GraphRecord]) -> dict[tuple[str, str], Buffer]:
    """Returns the buffers that exist before a step and after it, each of them once.

    Leaves out inputs that an earlier graph of the step has made. The keys are names, with that of
    the graph for an input without a name in the user's model.
    """
    found: dict[tuple[str, str], Buffer] = {}
    before: set[str] = set()
    for record in graphs:
        if record.planned:
            handed = {h.buffer for h in record.handed if h.graph in before}
            before.add(record.name)
            for b in _edited(record)[0].buffers:
                if b.home is Home.USER and b.tier is Tier.DEVICE and b.name not in handed:
                    found[_key(b, record.name)] = b
    return found


def _key(buffer: Buffer, graph: str) -> tuple[str, str]:
    return (graph if UNNAMED.fullmatch(buffer.name) else ""), buffer.name


def beside(before: Sequence[GraphRecord], problem: Problem) -> Beside:
    """Returns what the graphs of a step take while a later one runs.

    Args:
        before: the records of the graphs whose forwards ran before.
        problem: the later graph's.
    """
    own = {_key(b, problem.name) for b in problem.buffers if b.home is Home.USER}
    others = (b for key, b in persistent_buffers(before).items() if key not in own)
    now = without = 0
    for record in before:
        if record.planned:
            left, known = left_by_forward(*_edited(record)), record.recomputed
            now += left
            without += left if known is None else known.left
    return Beside(now, without, sum(b.persistent for b in others))


def left_by_forward(problem: Problem, plan: Plan) -> Bytes:
    """Returns the transient bytes that there are between forward and backward."""
    return sum(item.size for item in held_before(problem, plan, turn(problem)))


def turn(problem: Problem) -> int:
    """Returns the time at which the backward begins, the end of the order if there is none."""
    return problem.spans[0].stop if problem.spans else 0
