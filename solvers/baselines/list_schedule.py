"""List scheduling for greedy baselines: tracks the ready ops and the bytes that each would free.

An op is ready if its predecessors have run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roam.core.problem import BufferId, Home, OpId, Problem


class ListSchedule:
    """A phase that is being scheduled, op by op.

    Attributes:
        waits: by op, how many of its predecessors in the phase have not run.
        ready: the ops whose predecessors have run, in the order in which they became ready.
        users_left: by buffer, the ops of this and later phases that use the buffer and have not
            run.
        made: by op, the bytes of the buffers that the op creates.
        freed: by op, the bytes that the op would free if it ran now: of the buffers that no other
            op still has to use, and of its own results if no op uses them.
    """

    def __init__(self, problem: Problem, phase: int) -> None:
        self.problem = problem
        ops = problem.phases[phase]
        inside = set(ops)
        self.waits = {i: sum(p in inside for p in problem.predecessors[i]) for i in ops}
        self.ready = {i: None for i in ops if not self.waits[i]}
        first = ops[0] if ops else 0
        self.users_left = [{u for u in users if u >= first} for users in problem.users]
        self.made = {i: _bytes(problem, problem.ops[i].creates) for i in ops}
        self.freed = dict.fromkeys(ops, 0)
        for b in range(len(problem.buffers)):
            self._note_last_user(b)
        for i in ops:
            unused = (b for b in problem.ops[i].creates if not problem.users[b] and self.dies(b))
            self.freed[i] += _bytes(problem, unused)

    def dies(self, b: BufferId) -> bool:
        """Returns whether a buffer is freed after the last op that uses the buffer has run."""
        buffer = self.problem.buffers[b]
        return buffer.home is not Home.USER and not buffer.kept

    def run(self, i: OpId) -> None:
        op = self.problem.ops[i]
        del self.ready[i]
        for b in {*op.reads, *op.mutates}:
            self.users_left[b].discard(i)
            self._note_last_user(b)
        for s in self.problem.successors[i]:
            if s in self.waits:
                self.waits[s] -= 1
                if not self.waits[s]:
                    self.ready[s] = None

    def _note_last_user(self, b: BufferId) -> None:
        if len(self.users_left[b]) == 1 and self.dies(b):
            (last,) = self.users_left[b]
            if last in self.freed:
                self.freed[last] += self.problem.buffers[b].size


def schedule(problem: Problem, phase: int, rank: Callable[[ListSchedule, OpId], Any]) -> list[OpId]:
    """Returns an order of a phase that always runs the ready op of the lowest rank next.

    An op is ready if its predecessors have run.

    Args:
        problem: the Problem that has the phase.
        phase: the index of the phase.
        rank: returns the rank of a ready op, given the state of the schedule.
    """
    state = ListSchedule(problem, phase)
    order: list[OpId] = []
    while state.ready:
        i = min(state.ready, key=lambda i: rank(state, i))
        state.run(i)
        order.append(i)
    return order


def _bytes(problem: Problem, buffers: Any) -> int:
    return sum(problem.buffers[b].size for b in buffers)
