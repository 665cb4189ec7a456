"""Replays a schedule of a node-link graph, to check it apart from every search.

While a step runs, its own result is alive, and every earlier result that this or a later step still
reads. Of several runs of a node, a reader reads the latest one before itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from roam.core.errors import ScheduleError
from roam.core.node_link import Node, NodeLinkGraph


class Replayed(NamedTuple):
    """What a schedule takes.

    Attributes:
        peak: bytes alive at its worst step.
        time: of all its steps, in the unit of the file.
    """

    peak: int
    time: float


def replay(graph: NodeLinkGraph, schedule: Sequence[Node]) -> Replayed:
    """Replays a schedule. Raises ScheduleError if it is none of the graph."""
    latest: dict[Node, int] = {}
    last_read = list(range(len(schedule)))
    for step, node in enumerate(schedule):
        if node not in graph.sizes:
            raise ScheduleError(f"step {step} runs {node!r}, which is no node of {graph.name}")
        for source in graph.reads[node]:
            if source not in latest:
                raise ScheduleError(f"step {step} runs {node!r} before {source!r}, which it reads")
            last_read[latest[source]] = step
        latest[node] = step
    if missing := [node for node in graph.order if node not in latest]:
        raise ScheduleError(f"the schedule never runs {missing[0]!r}")
    peak = alive = 0
    ends: dict[int, int] = {}
    for step, node in enumerate(schedule):
        alive += graph.sizes[node]
        ends[last_read[step]] = ends.get(last_read[step], 0) + graph.sizes[node]
        peak = max(peak, alive)
        alive -= ends.pop(step, 0)
    return Replayed(peak, sum(graph.times[node] for node in schedule))
