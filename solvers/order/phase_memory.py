"""Counts the bytes that the ops of a phase make and free while a greedy rule orders them."""

from __future__ import annotations

from collections.abc import Sequence

from roam.core.lifetime import can_take
from roam.core.problem import BufferId, Home, OpId, Problem


class PhaseMemory:
    """Tracks how many ops have yet to use each buffer, and which buffers an op would free.

    Starts at the beginning of a phase: every op of earlier phases has run. Counts the bytes of
    buffers in every tier, not only on the device, which is exact enough for greedy rules.
    """

    def __init__(self, problem: Problem, phase: int) -> None:
        self.problem = problem
        self.left: list[int] = [len(users) for users in problem.users]
        for i in (i for earlier in problem.phases[:phase] for i in earlier):
            for b in _used(problem, i):
                self.left[b] -= 1

    def effect(self, i: OpId) -> tuple[int, int]:
        """Returns two numbers of bytes that a ready op adds: after it has run, and while it runs.

        Both are relative to the bytes alive just before the op. While it runs, the op adds its
        results and its scratch space, less at most one result that may be written over a dying
        buffer. After it has run, the op adds its results that are used or kept, less the buffers
        that die with it. This number may be below 0.
        """
        problem = self.problem
        op = problem.ops[i]
        dying = {b for b in _used(problem, i) if self.left[b] == 1 and self.can_die(b)}
        made = sum(problem.buffers[b].size for b in op.creates)
        freed = sum(problem.buffers[b].size for b in dying)
        idle = sum(
            problem.buffers[b].size
            for b in op.creates
            if not problem.users[b] and not problem.buffers[b].kept
        )
        shared = 0
        for new, old in op.over:
            if old in dying and can_take(problem, new, old):
                shared = problem.buffers[new].size
                break
        return made - freed - idle, made + op.scratch - shared

    def can_die(self, b: BufferId) -> bool:
        buffer = self.problem.buffers[b]
        return buffer.home is not Home.USER and not buffer.kept

    def run(self, i: OpId) -> list[OpId]:
        """Counts an op as having run. Returns the ops whose `effect` this may have changed.

        These are all users of each buffer that only one op has yet to use now. An op may be listed
        twice.
        """
        touched: list[OpId] = []
        for b in _used(self.problem, i):
            self.left[b] -= 1
            if self.left[b] == 1:
                touched += self.problem.users[b]
        return touched


def _used(problem: Problem, i: OpId) -> Sequence[BufferId]:
    op = problem.ops[i]
    return list(dict.fromkeys((*op.reads, *op.mutates)))
