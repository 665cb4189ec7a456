"""Makes the first orders of each phase of a Problem: program order and greedy list schedules.

Each phase is ordered by itself: the buffers alive between the phases do not depend on the order
of either phase, so the best orders of the phases together are the best order of the step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from roam.core.problem import OpId, Problem
from roam.solvers.order.lazy_schedule import lazy
from roam.solvers.order.phase_memory import PhaseMemory

Order = list[OpId]
# greedy rule: (bytes an op adds to the live bytes, bytes it adds while it runs, its id) -> rank
Rank = Callable[[int, int, int], tuple[int, ...]]
OrderSolver = Callable[[Problem, int], Order]  # (problem, phase) -> an order of the phase's ops


def program_order(problem: Problem, phase: int) -> Order:
    """Returns the ops of a phase in the order of the captured program."""
    return list(problem.phases[phase])


def demand(problem: Problem, phase: int) -> Order:
    """Returns an order in which every op runs late: just before an op that waits for it.

    Goes in program order through the ops of the phase for which no other op of the phase waits.
    Before each of these, runs all ops that it waits for, directly or not, and that have not run
    yet. So an op does not run until its results are needed, and they do not live long.
    """
    inside = set(problem.phases[phase])
    done: set[OpId] = set()
    order: Order = []
    sinks = [i for i in problem.phases[phase] if not inside.intersection(problem.successors[i])]
    for sink in sinks:
        stack = [sink]
        while stack:
            i = stack[-1]
            waiting = [p for p in problem.predecessors[i] if p in inside and p not in done]
            if i in done or not waiting:
                stack.pop()
                if i not in done:
                    done.add(i)
                    order.append(i)
            else:
                stack.extend(sorted(waiting, reverse=True))
    return order


def free_early(problem: Problem, phase: int) -> Order:
    """Returns program order, except that ops that free more bytes than they make run early.

    Such an op runs as soon as all ops that it waits for have run.
    """
    return list_schedule(problem, phase, _frees_first)


def least_peak_first(problem: Problem, phase: int) -> Order:
    """Returns the order that always runs the ready op after which the fewest bytes are alive.

    This is the greedy rule of LESCEA (as described in ROAM, arXiv 2310.19295, section 2) and of
    Inductor's "least peak memory first".
    """
    return list_schedule(problem, phase, _least_first)


def _frees_first(net: int, transient: int, place: int) -> tuple[int, ...]:
    return (0 if net < 0 else 1, place)


def _least_first(net: int, transient: int, place: int) -> tuple[int, ...]:
    return (net, transient, place)


CANDIDATES: dict[str, OrderSolver] = {
    "program": program_order,
    "free early": free_early,
    "demand": demand,
    "least peak first": least_peak_first,
    "lazy": lazy,
}


def list_schedule(problem: Problem, phase: int, rank: Rank) -> Order:
    """Returns the order that always runs the ready op with the lowest rank.

    An op is ready if all ops that it waits for have run. The rank of a ready op changes only when
    all other users of some buffer that it uses have run: the op would then free the buffer. The new
    rank is pushed on the heap. The old one stays in the heap, and is skipped when it comes out.
    """
    ops = problem.phases[phase]
    state = PhaseMemory(problem, phase)
    inside = set(ops)
    waiting = {i: sum(p in inside for p in problem.predecessors[i]) for i in ops}
    version: dict[OpId, int] = {}
    heap: list[tuple[tuple[int, ...], OpId, int]] = []

    def push(i: OpId) -> None:
        version[i] = version.get(i, 0) + 1
        heapq.heappush(heap, (rank(*state.effect(i), i), i, version[i]))

    for i, n in waiting.items():
        if n == 0:
            push(i)
    order: Order = []
    while heap:
        _, i, seen = heapq.heappop(heap)
        if seen != version[i]:
            continue
        version[i] = -1
        order.append(i)
        touched = state.run(i)
        for s in problem.successors[i]:
            if s in waiting:
                waiting[s] -= 1
                if waiting[s] == 0:
                    push(s)
        for u in touched:
            if waiting.get(u) == 0 and version.get(u, -1) > 0:
                push(u)
    return order
