"""The best order of a phase, with a proof: from valley to valley of the live bytes.

    live            K - - - - - - - - - - - - - -
    bytes   S              ╱╲    ╱╲                  S, T: sets of ops that have run
              ╲__╱╲      ╱    ╲╱   ╲                 T: after S, no more is alive than after S
                    ╲__╱            ╲___ T           hill: what has to be passed in between

Is there an order that never takes more than K bytes? Let S have run. Search the sets of ops that
can be reached from S within K; as soon as one of them, T, holds no more bytes than S and than every
set between the two, go on from T and forget the others. Nothing is lost: the live bytes of sets of
ops are submodular, so whatever order from S keeps within K, running T's ops first and then the
others in that order keeps within K as well. (Let σ be what the order has run at some moment. Then
live(T ∪ σ) ≤ live(T) + live(σ) - live(T ∩ σ) ≤ live(σ), for T ∩ σ lies between S and T.) If the
search ends without a T, no order keeps within K.

It generalises Liu's valleys of trees (1987), and Abdel-Wahab and Kameda's of series-parallel
graphs (1978), to any graph; what is exponential is the width of single hills only, and training
graphs are rich in valleys: every layer ends in one.

An op is taken to write over dying buffers wherever it ever might. So an answer of "no" holds with
and without reuse, while an order that is found has to be measured.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from ortools.graph.python.max_flow import SimpleMaxFlow

from roam.core.problem import OpId, Problem
from roam.solvers.progress import Phase, Place, State


@dataclass(frozen=True)
class Verdict:
    """order: the ops of the phase, where one keeps within the limit. needed: bytes that every
    order takes, 0 where the search gave up. work: how many ops were run to find out.
    """

    order: list[OpId] | None
    needed: int
    work: int


@dataclass(eq=False)
class _Reached:
    """A set of ops that can be reached: its live bytes, and the ops from its parent on.

    From parent to child the live bytes rise: a child with fewer would have taken its place.
    """

    live: int
    ops: tuple[Place, ...]
    parent: _Reached | None = None
    children: list[_Reached] = field(default_factory=list)
    known: frozenset[Place] = frozenset()
    waiting: bool = True
    gone: bool = False

    def path(self) -> list[Place]:
        before = [] if self.parent is None else self.parent.path()
        return [*before, *self.ops]

    def highest_above(self, live: int) -> _Reached | None:
        """The first on the way here with no less alive than that."""
        found = None
        at: _Reached | None = self
        while at is not None and at.live >= live:
            found, at = at, at.parent
        return found


class _Tree:
    """What can be reached. size: how many have yet to be gone on from.

    No set of ops comes up twice, not even one that was dropped: what was dropped can be done
    without, however it is reached.
    """

    def __init__(self, root: _Reached) -> None:
        self.heap: list[tuple[int, int, _Reached]] = []
        self.seen: set[frozenset[Place]] = set()
        self.size = 0
        self.add(root)

    def take(self) -> _Reached | None:
        """The one with the least alive."""
        while self.heap:
            _, _, found = heapq.heappop(self.heap)
            if not found.gone:
                found.waiting = False
                self.size -= 1
                return found
        return None

    def drop(self, top: _Reached) -> None:
        """Forgets a set of ops and all that was reached from it."""
        stack = [top]
        while stack:
            at = stack.pop()
            if not at.gone:
                at.gone = True
                self.size -= at.waiting
                stack += at.children

    def add(self, new: _Reached) -> None:
        before = frozenset() if new.parent is None else new.parent.known
        new.known = before.union(new.ops)
        if new.known in self.seen:
            return
        self.seen.add(new.known)
        if new.parent is not None:
            new.parent.children.append(new)
        self.size += 1
        heapq.heappush(self.heap, (new.live, len(self.seen), new))


class Search:
    """One question: is there an order that keeps within `most` bytes?"""

    def __init__(self, phase: Phase, most: int, work: int, deadline: float) -> None:
        self.phase, self.most, self.limit, self.deadline = phase, most, work, deadline
        self.state = State(phase)
        self.work = 0
        self.refused: float = inf  # the least that an op would have taken where it had no room

    def answer(self) -> Verdict:
        order = self.descend()
        while len(order) < len(self.phase.ops):
            hill = self.cross()
            if self.gives_up():
                return Verdict(None, 0, self.work)
            if hill is None:
                return Verdict(None, int(self.refused), self.work)
            self.run(hill)
            order += hill
        found = [self.phase.ops[k] for k in order]
        return Verdict(found[::-1] if self.phase.mirrored else found, 0, self.work)

    def gives_up(self) -> bool:
        return self.work > self.limit or time.monotonic() > self.deadline

    def run(self, ops: Iterable[Place]) -> None:
        for k in ops:
            self.state.run(k)
            self.work += 1

    def undo(self, ops: Sequence[Place]) -> None:
        for k in reversed(ops):
            self.state.undo(k)

    def has_room(self, k: Place) -> bool:
        takes = self.state.takes(k)
        if takes > self.most:
            self.refused = min(self.refused, takes)
        return takes <= self.most

    def descend(self) -> list[Place]:
        """Runs what frees as much as it makes: every such op leads into a valley by itself."""
        ran: list[Place] = []
        while fits := [k for k in self.state.light if self.has_room(k)]:
            ran.append(min(fits))
            self.run(ran[-1:])
        return ran

    def cross(self) -> list[Place] | None:
        """Ops from here to where nothing else needs to be remembered, None if that is nowhere.

        Of the sets of ops that can be reached, the one with the least alive goes on first. Where
        one leads to a valley, it is left for that valley, whatever else it leads to.
        """
        root = _Reached(self.state.live, ())
        tree = _Tree(root)
        while (at := tree.take()) is not None and not self.gives_up():
            path = at.path()
            if path and not tree.size:
                return path
            self.run(path)
            for k in sorted(filter(self.has_room, self.state.ready)):
                self.run([k])
                more = (k, *self.descend())
                after, end = self.state.live, not self.state.ready
                self.undo(more)
                if end:
                    self.undo(path)
                    return [*path, *more]
                if (top := at.highest_above(after)) is not None:
                    self.undo(path)
                    self.leave_for_valley(tree, top, [*path[len(top.path()) :], *more])
                    break
                tree.add(_Reached(after, more, at))
            else:
                self.undo(path)
        return None

    def leave_for_valley(self, tree: _Tree, top: _Reached, ops: Sequence[Place]) -> None:
        before = top.path()
        self.run(before)
        live, least = self.lowest(ops)
        self.undo(before)
        tree.drop(top)
        tree.add(_Reached(live, top.ops + least, top.parent))

    def lowest(self, path: Sequence[Place]) -> tuple[int, tuple[Place, ...]]:
        """Those of some ops after which the least is alive, all of them if there is a choice;
        and how much that is.

        A closure of greatest gain (Picard 1976), by a minimum cut: a buffer is gained when all of
        its closers run, for which what they wait for has to run, and it costs when the first of
        its openers does.
        """
        place = {k: n for n, k in enumerate(path)}
        source, sink, nodes = len(path), len(path) + 1, len(path) + 2
        phase, state = self.phase, self.state
        unbounded = 1 + 2 * sum(phase.size[b] for k in path for b in phase.opens[k])
        unbounded += 2 * sum(phase.size[b] for k in path for b in phase.closes[k])
        flow = SimpleMaxFlow()
        for k in path:
            for p in (p for p in phase.before[k] if p in place):
                flow.add_arc_with_capacity(place[k], place[p], unbounded)
        for b in dict.fromkeys(b for k in path for b in phase.opens[k] if not state.opened[b]):
            flow.add_arc_with_capacity(nodes, sink, phase.size[b])
            for k in (k for k in phase.openers[b] if k in place):
                flow.add_arc_with_capacity(place[k], nodes, unbounded)
            nodes += 1
        for b in dict.fromkeys(b for k in path for b in phase.closes[k]):
            inside = [k for k in phase.closers[b] if k in place]
            if len(inside) == state.left[b]:
                flow.add_arc_with_capacity(source, nodes, phase.size[b])
                for k in inside:
                    flow.add_arc_with_capacity(nodes, place[k], unbounded)
                nodes += 1
        if flow.num_arcs() and flow.solve(source, sink) != flow.OPTIMAL:
            raise AssertionError("every cut of the source's arcs is finite")
        outside = set(flow.get_sink_side_min_cut())
        least = tuple(k for k in path if place[k] not in outside)
        self.run(least)
        live = state.live
        self.undo(least)
        return live, least


FIRST, MORE = 20_000, 8  # ops run before the other direction is tried, and how many times more


def keeps_within(
    problem: Problem, phase: int, most: int, work: int = 1_000_000, deadline: float = inf
) -> Verdict:
    """Whether an order of a phase keeps within `most` bytes, all reuse granted.

    Asks forward and mirrored in turn, for hills that are wide from one side may be narrow from
    the other, and with more patience each time. work: after how many ops run to give up.
    deadline: a time of `time.monotonic()`.
    """
    spent, patience = 0, FIRST
    while spent < work:
        for mirrored in (False, True):
            sides = Phase(problem, phase, mirrored=mirrored)
            found = Search(sides, most, min(patience, work - spent), deadline).answer()
            spent += found.work
            if found.order is not None or found.needed or time.monotonic() > deadline:
                return Verdict(found.order, found.needed, spent)
        patience *= MORE
    return Verdict(None, 0, spent)
