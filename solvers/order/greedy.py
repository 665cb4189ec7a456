"""Makes the first orders of each phase of a Problem: program order and greedy list schedules.

Each phase is ordered by itself: the buffers alive between the phases do not depend on the order
of either phase, so the best orders of the phases together are the best order of the step.
"""

from __future__ import annotations

from collections.abc import Callable

from roam.core.problem import OpId, Problem
from roam.solvers.order.lazy_schedule import lazy
from roam.solvers.order.ranked_schedule import Order, Rank, RankedSchedule

OrderSolver = Callable[[Problem, int], Order]  # (problem, phase) -> an order of the phase's ops


def program_order(problem: Problem, phase: int) -> Order:
    """Returns the ops of a phase in the order of the captured program."""
    return list(problem.phases[phase])


def demand(problem: Problem, phase: int) -> Order:
    """Returns an order in which ops run late: shortly before an op that needs them.

    Goes in program order through the ops of the phase for which no other op of the phase waits.
    Before each of these, runs all ops that it waits for, directly or not, and that have not run
    yet, depth first. So an op does not run until its results are needed, and they do not live long.
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

    Such an op runs as soon as all ops that it waits for have run. Of several such ops, the first in
    program order runs first.
    """
    return _whole(_FreesFirst(problem, phase))


def least_peak_first(problem: Problem, phase: int) -> Order:
    """Returns the order that always runs the ready op after which the fewest bytes are alive.

    An op is ready if all ops that it waits for have run. Of several ready ops after which equally
    few bytes are alive, runs the one that needs the fewest bytes while it runs. This is the greedy
    rule of LESCEA (`baselines/lescea.py`), with another tie-break. Inductor's "least peak memory
    first" also looks at the peak so far (`baselines/inductor.py`).
    """
    return _whole(_LeastFirst(problem, phase))


class _FreesFirst(RankedSchedule):
    def rank(self, i: OpId, net: int, transient: int) -> Rank:
        return (0 if net < 0 else 1, i)


class _LeastFirst(RankedSchedule):
    def rank(self, i: OpId, net: int, transient: int) -> Rank:
        return (net, transient, i)


def _whole(schedule: RankedSchedule) -> Order:
    """Runs a greedy schedule that has no limit on live bytes to its end. Returns its order."""
    found = schedule.run()
    assert found is not None, "without a limit, some ready op can always run"
    return found[0]


CANDIDATES: dict[str, OrderSolver] = {
    "program": program_order,
    "free early": free_early,
    "demand": demand,
    "least peak first": least_peak_first,
    "lazy": lazy,
}
