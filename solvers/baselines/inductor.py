"""Computes the three orders among which Inductor chooses (torch/_inductor/memory.py, torch 2.13).

The rules count only the bytes of buffers (`bfs` counts none at all). They ignore the scratch space
of ops, and do not write a result over a dying buffer.
"""

from __future__ import annotations

import heapq

from roam.core.problem import Home, OpId, Problem
from roam.solvers.baselines.list_schedule import ListSchedule


def lpmf(problem: Problem, phase: int) -> list[OpId]:
    """Returns the order "least peak memory first".

    An op is ready if its predecessors have run. Of the ready ops that do not raise the peak so far,
    runs the op after which the fewest bytes are alive. If every ready op raises the peak, runs the
    op that raises it least. The peak begins as the bytes alive at the start of the phase, or as the
    bytes that the phase leaves alive at its end, if these are more.
    """
    state = ListSchedule(problem, phase)
    live = _at_start(problem, phase)
    peak = max(live, _at_end(problem, phase))
    order: list[OpId] = []
    while state.ready:
        room = peak - live

        def rank(i: OpId, room: int = room) -> tuple[int, int, OpId]:
            made = state.made[i]
            return (made if made > room else 0, made - state.freed[i], i)

        i = min(state.ready, key=rank)
        state.run(i)
        order.append(i)
        live += state.made[i]
        peak = max(peak, live)
        live -= state.freed[i]
    return order


def bfs(problem: Problem, phase: int) -> list[OpId]:
    """Returns a breadth-first order: always runs the ready op whose predecessors ran earliest.

    An op is ready if its predecessors have run. Compares ready ops by the sorted times at which
    their predecessors in the phase ran, beginning with the earliest time; of equal ops, runs the
    first in program order.
    """
    state = ListSchedule(problem, phase)
    place: dict[OpId, int] = {}

    def entry(i: OpId) -> tuple[list[int], OpId]:
        return sorted(place[p] for p in problem.predecessors[i] if p in place), i

    heap = [entry(i) for i in state.ready]
    heapq.heapify(heap)
    while heap:
        _, i = heapq.heappop(heap)
        place[i] = len(place)
        known = len(state.ready)
        state.run(i)
        for s in list(state.ready)[known - 1 :]:
            heapq.heappush(heap, entry(s))
    return list(place)


def dfs(problem: Problem, phase: int) -> list[OpId]:
    """Returns a depth-first order: before an op runs, all ops that it waits for are run.

    Goes through the ops by the bytes that they touch (make, read or change), the fewest first. The
    predecessors of an op that have not run yet are gone through in the same way.
    """
    inside = set(problem.phases[phase])
    rank = {i: (_touched(problem, i), i) for i in inside}
    seen: set[OpId] = set()
    order: list[OpId] = []
    for start in sorted(inside, key=rank.__getitem__):
        stack = [(start, False)]
        while stack:
            i, visited = stack.pop()
            if visited:
                order.append(i)
            elif i not in seen:
                seen.add(i)
                stack.append((i, True))
                before = inside.intersection(problem.predecessors[i])
                stack += [(p, False) for p in sorted(before, key=rank.__getitem__, reverse=True)]
    return order


def _touched(problem: Problem, i: OpId) -> int:
    """Returns the bytes of the buffers that an op creates, reads or changes.

    Leaves out persistent buffers, such as parameters.
    """
    touched = (problem.buffers[b] for b in problem.ops[i].touches)
    return sum(b.size for b in touched if b.home is not Home.USER)


def _at_start(problem: Problem, phase: int) -> int:
    """Returns the bytes alive at the start of a phase that an op of this or a later phase uses.

    Leaves out persistent buffers, and buffers that the user keeps.
    """
    first = problem.phases[phase][0] if problem.phases[phase] else 0
    return sum(
        buffer.size
        for b, buffer in enumerate(problem.buffers)
        if buffer.home is not Home.USER
        and not buffer.kept
        and _maker(problem, b) < first <= max(problem.users[b], default=-1)
    )


def _at_end(problem: Problem, phase: int) -> int:
    """Returns the bytes that a phase creates and that are still alive at its end."""
    last = problem.phases[phase][-1] if problem.phases[phase] else -1
    inside = set(problem.phases[phase])
    return sum(
        buffer.size
        for b, buffer in enumerate(problem.buffers)
        if problem.maker[b] in inside and (buffer.kept or max(problem.users[b], default=-1) > last)
    )


def _maker(problem: Problem, b: int) -> OpId:
    made_by = problem.maker[b]
    return -1 if made_by is None else made_by
