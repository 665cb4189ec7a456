"""Holds the state of `segment_search`: which ops of a phase have run, how many bytes are alive."""

from __future__ import annotations

from collections.abc import Iterable

from roam.core.problem import BufferId, Problem
from roam.solvers.bound.min_cut import own_bytes

Place = int  # the index of an op in the program order of its phase


class Phase:
    """The ops of one phase, by index in program order, and the buffers that they open and close.

    A buffer is alive from the moment at which its first opener has run until its last closer has
    run. In a search from the start of the phase, the op that makes a buffer is its opener, and the
    ops that use it are its closers. A mirrored search runs from the end of the phase to its start:
    the ops that use a buffer open it, and the op that makes it closes it.

    Attributes:
        mirrored: whether the search runs from the end of the phase to its start.
        ops: the ids of the ops, in program order.
        size: by buffer, its size in bytes.
        before: by op, the ops that have to run before it in the search.
        after: by op, the ops that can run only after it in the search. `before` and `after` list
            direct dependencies only.
        openers: by buffer, the ops of the phase that open it. Has no entry for a buffer that is
            alive when the search begins.
        closers: by buffer, the ops of the phase that close it. Has no entry for a buffer that is
            alive when the search ends.
        opens: by op, the buffers that it opens.
        closes: by op, the buffers that it closes.
        own: by op, the bytes that it adds, while it runs, to those alive just before it in the
            order of the phase, also if the search is mirrored.
        start: bytes alive when the search begins: at the start of the phase, or if mirrored, at
            its end.
    """

    def __init__(self, problem: Problem, phase: int, *, mirrored: bool = False) -> None:
        self.mirrored = mirrored
        self.ops = problem.phases[phase]
        place = {i: k for k, i in enumerate(self.ops)}
        before = [[place[p] for p in problem.predecessors[i] if p in place] for i in self.ops]
        after = [[place[s] for s in problem.successors[i] if s in place] for i in self.ops]
        self.before, self.after = (after, before) if mirrored else (before, after)
        self.own = [own_bytes(problem, i) for i in self.ops]
        self.size = [b.transient for b in problem.buffers]
        self.openers: dict[BufferId, list[Place]] = {}
        self.closers: dict[BufferId, list[Place]] = {}
        self.start = 0
        for b, buffer in enumerate(problem.buffers):
            made_by, users = problem.maker[b], problem.users[b]
            if made_by is None or problem.ops[made_by].phase > phase:
                continue
            later = buffer.kept or any(problem.ops[u].phase > phase for u in users)
            inside = [place[u] for u in users if u in place]
            if later or inside:
                maker = [place[made_by]] if made_by in place else []
                self.add(b, maker, [] if later else inside)
        self.opens = _of_each(self.openers, len(self.ops))
        self.closes = _of_each(self.closers, len(self.ops))

    def add(self, b: BufferId, makers: list[Place], users: list[Place]) -> None:
        openers, closers = (users, makers) if self.mirrored else (makers, users)
        if not openers:
            self.start += self.size[b]
        else:
            self.openers[b] = openers
        if closers:
            self.closers[b] = closers


def _of_each(ops: dict[BufferId, list[Place]], n: int) -> list[list[BufferId]]:
    found: list[list[BufferId]] = [[] for _ in range(n)]
    for b, places in ops.items():
        for k in places:
            found[k].append(b)
    return found


class State:
    """The ops of a phase that have run, and those that could run next. `run` and `undo` change it.

    A buffer is alive from its first opener to its last closer, in the direction of the search.

    Attributes:
        live: live bytes now.
        weighed: how many times `net` was called, where a search spends most of its time.
        waits: by op, how many of the ops that have to run before it have not run yet.
        opened: by buffer, how many of its openers have run.
        left: by buffer, how many of its closers have not run.
        ready: ops that may run next: `waits` is 0, and they are not blocked.
        light: the ready ops that do not raise the live bytes.
        idle: the ready ops that raise the live bytes, and take no more bytes while they run than
            are alive after them; empty in a mirrored search.
        blocked: ops that the search from the other end of the phase has fixed; this search must not
            run them.
    """

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.live = phase.start
        self.weighed = 0
        self.waits = [len(before) for before in phase.before]
        self.opened = dict.fromkeys(phase.openers, 0)
        self.left = {b: len(closers) for b, closers in phase.closers.items()}
        self.ready: set[Place] = set()
        self.light: set[Place] = set()
        self.idle: set[Place] = set()
        self.blocked: set[Place] = set()
        for k, n in enumerate(self.waits):
            if n == 0:
                self.ready.add(k)
                self.weigh([k])

    def net(self, k: Place) -> int:
        """Returns by how many bytes a ready op raises the live bytes; below 0 if it lowers them."""
        self.weighed += 1
        size, net = self.phase.size, 0
        for b in self.phase.opens[k]:
            if not self.opened[b]:
                net += size[b]
        for b in self.phase.closes[k]:
            if self.left[b] == 1:
                net -= size[b]
        return net

    def takes(self, k: Place) -> int:
        """Returns the bytes that would be alive while a ready op runs.

        A mirrored search runs from the end of the phase to its start. So the state after an op in
        the search is the state before that op in the order of the phase.
        """
        live = self.live + self.net(k) if self.phase.mirrored else self.live
        return live + self.phase.own[k]

    def weigh(self, ops: Iterable[Place]) -> None:
        for k in ops:
            self.light.discard(k)
            self.idle.discard(k)
            if k in self.ready:
                net = self.net(k)
                if net <= 0:
                    self.light.add(k)
                elif net >= self.phase.own[k] and not self.phase.mirrored:
                    self.idle.add(k)

    def block(self, ops: Iterable[Place]) -> None:
        self.blocked.update(ops)
        for some in (self.ready, self.light, self.idle):
            some.difference_update(self.blocked)

    def run(self, k: Place) -> None:
        phase = self.phase
        self.live += self.net(k)
        self.ready.discard(k)
        self.light.discard(k)
        self.idle.discard(k)
        for b in phase.opens[k]:
            self.opened[b] += 1
            if self.opened[b] == 1:
                self.weigh(phase.openers[b])
        for b in phase.closes[k]:
            self.left[b] -= 1
            if self.left[b] == 1:
                self.weigh(phase.closers[b])
        for s in phase.after[k]:
            self.waits[s] -= 1
            if self.waits[s] == 0 and s not in self.blocked:
                self.ready.add(s)
                self.weigh([s])

    def undo(self, k: Place) -> None:
        phase = self.phase
        for s in phase.after[k]:
            self.waits[s] += 1
            self.ready.discard(s)
            self.light.discard(s)
            self.idle.discard(s)
        self.ready.add(k)
        for b in phase.opens[k]:
            self.opened[b] -= 1
        for b in phase.closes[k]:
            self.left[b] += 1
        for b in phase.opens[k]:
            if self.opened[b] == 0:
                self.weigh(phase.openers[b])
        for b in phase.closes[k]:
            if self.left[b] == 2:
                self.weigh(phase.closers[b])
        self.weigh([k])
        self.live -= self.net(k)
