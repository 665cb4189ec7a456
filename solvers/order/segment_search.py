"""From one valley of the live bytes to the next: the hill between them, crossed within a limit.

See valleys.py for why a valley that was reached can be gone on from for good.

What makes hills wide are ops that may run at any time and only add: what is made again from a saved
tensor, the gradient of a weight. Such an idle op can wait. Let an order keep within K bytes, run
the idle op r, and later y, the first op that needs r or that r's last bytes to free depend on. Put
r just before y: meanwhile less is alive, and while r runs there is no more than after it, which is
what the order held when y began. So an idle op runs in one move with such a y, or at the very end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, combinations, count
from math import inf

from ortools.graph.python.max_flow import SimpleMaxFlow

from roam.core.problem import OpId
from roam.solvers.order.progress import Phase, Place, State
from roam.solvers.work import Work


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

    No set of ops comes up twice, but for one that was dropped: the valley that it was left for may
    lead to it again.
    """

    def __init__(self, root: _Reached) -> None:
        self.heap: list[tuple[int, int, _Reached]] = []
        self.seen: set[frozenset[Place]] = set()
        self.turn = count()  # of two with as much alive, which came first
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
                self.seen.discard(at.known)
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
        heapq.heappush(self.heap, (new.live, next(self.turn), new))


class Crossed(Enum):
    """What became of a hill."""

    ALL = auto()  # all that were there: the side has met the other
    NO = auto()  # it cannot be crossed within the limit: a proof
    GAVE_UP = auto()


class Side:
    """What has run for good from one end of a phase.

    order: the ops, from that end on. most: the limit, bytes. refused: the least that an op would
    have taken where it had no room. runs: ops run so far. work: ends the search at its deadline.
    """

    def __init__(self, phase: Phase, most: int, work: Work) -> None:
        self.phase, self.most, self.work = phase, most, work
        self.state = State(phase)
        self.order: list[Place] = []
        self.refused: float = inf
        self.runs = 0
        self.limit: float = 0

    def walk(self, patience: int, runs: float) -> Crossed:
        """Goes from valley to valley, until a hill takes more than `patience` ops run, or all hills
        together more than `runs`.
        """
        last = self.runs + runs
        self.order += self.descend()
        while not self.is_all(0):
            self.limit = min(self.runs + patience, last)
            hill = self.cross()
            if self.gives_up():
                return Crossed.GAVE_UP
            if hill is None:
                return Crossed.NO
            self.run(hill)
            self.order += hill
        return Crossed.ALL

    def block(self, ops: Iterable[Place]) -> None:
        """Leaves ops to the other end, where they have run for good."""
        self.state.block(ops)

    @property
    def ran(self) -> list[OpId]:
        return [self.phase.ops[k] for k in self.order]

    def gives_up(self) -> bool:
        return self.runs > self.limit or self.work.is_late()

    def is_all(self, more: int) -> bool:
        return len(self.order) + more + len(self.state.blocked) == len(self.phase.ops)

    def run(self, ops: Iterable[Place]) -> None:
        for k in ops:
            self.state.run(k)
            self.runs += 1

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
            for move in list(self.moves()):
                if not self.has_run(move):
                    continue
                more = (*move, *self.descend())
                after = self.state.live
                self.undo(more)
                if self.is_all(len(path) + len(more)):
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

    def moves(self) -> Iterator[tuple[Place, ...]]:
        """What may run next, as far as there is a choice: an op, idle ones that it calls for before
        it, or an idle one where nothing else is left.
        """
        state, after = self.state, self.phase.after
        idle, waited_for = state.idle, False
        for k in sorted(state.ready.union(*(after[i] for i in idle))):
            needed = {p for p in self.phase.before[k] if p in idle}
            if k in state.blocked or len(needed) < state.waits[k]:
                continue
            groups = self.last_but_for(k)
            for chosen in chain.from_iterable(
                combinations(groups, n) for n in range(len(groups) + 1)
            ):
                first = sorted(needed.union(*chosen))
                if first or k not in idle:
                    waited_for = True
                    yield (*first, k)
        if not waited_for:
            yield from ((k,) for k in sorted(state.ready))

    def last_but_for(self, k: Place) -> list[set[Place]]:
        """For every buffer that only an op and idle ones have yet to use, the idle ones."""
        found = []
        for b in self.phase.closes[k]:
            others = {u for u in self.phase.closers[b] if u in self.state.idle and u != k}
            if others and len(others) == self.state.left[b] - 1:
                found.append(others)
        return found

    def has_run(self, move: Sequence[Place]) -> bool:
        """Runs the ops of a move, or none of them where there is no room for one."""
        for n, k in enumerate(move):
            if not self.has_room(k):
                self.undo(move[:n])
                return False
            self.run([k])
        return True

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
