"""Finds the ops that lead from one valley of the live bytes to the next, within a limit.

A state of the search is the set of ops that have run. A valley is a state with few live bytes. A
hill is the states between two valleys. `valleys.py` defines both, and proves that a search which
has reached a valley may forget all other states.

An idle op may run at any time and only adds bytes: it recomputes from a saved tensor, for example,
or makes the gradient of a weight. Idle ops multiply the states of a hill. But idle ops can wait.
Let an order keep within K bytes and run the idle op r. Let y be the first later op that needs r, or
that frees a buffer which r uses too. Move r to just before y. Between the old and the new place of
r, fewer bytes are alive than without the move. While r runs in its new place, no more bytes are
alive than after it, and those are as many as without the move when y begins. So the search need not
try r by itself: r runs just before such an op y, or at the end of the phase.
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
    """A set of ops that can run within the limit, as a node of the search tree.

    A child has more live bytes than its parent: otherwise it would have replaced its parent.

    Attributes:
        live: live bytes when the set has run.
        ops: the ops that the set has and its parent has not, in an order within the limit.
        parent: the set that was extended to this one; None for the set where the search begins.
        known: all ops of the set but those of the set where the search begins.
        waiting: whether the search has yet to extend the set.
        gone: whether the set was dropped.
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
        """Returns the earliest ancestor from which on the live bytes never drop below `live`.

        The set itself counts as an ancestor. Returns None if the set itself has fewer live bytes.
        """
        found = None
        at: _Reached | None = self
        while at is not None and at.live >= live:
            found, at = at, at.parent
        return found


class _Tree:
    """The search tree of sets of ops that can run within the limit.

    No set is added twice, unless it was dropped in between: the set for which it was dropped may
    lead to it again.

    Attributes:
        size: how many sets the search has yet to extend.
    """

    def __init__(self, root: _Reached) -> None:
        self.heap: list[tuple[int, int, _Reached]] = []
        self.seen: set[frozenset[Place]] = set()
        self.turn = count()  # breaks ties: of two sets with equal live bytes the older is first
        self.size = 0
        self.add(root)

    def take(self) -> _Reached | None:
        """Returns the set to extend next: the one with the fewest live bytes.

        Returns None if all sets have been extended or dropped.
        """
        while self.heap:
            _, _, found = heapq.heappop(self.heap)
            if not found.gone:
                found.waiting = False
                self.size -= 1
                return found
        return None

    def drop(self, top: _Reached) -> None:
        """Removes a set and all sets that were reached from it."""
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
    """How `Side.walk` ended."""

    ALL = auto()  # every op of the phase is fixed, by this side or the other one
    NO = auto()  # proven: no order of the phase keeps within the limit
    GAVE_UP = auto()  # the limit on the ops run, or the deadline, was reached


class Side:
    """The search from one end of a phase, with the ops whose order it has fixed.

    Attributes:
        most: the limit in bytes.
        work: ends the search at its deadline; the units of `work` are not looked at.
        order: the fixed ops, beginning with the op nearest to this end of the phase.
        refused: of all ops that did not fit into the limit, the fewest bytes that would have been
            alive while one of them ran; inf if every op fitted.
        runs: ops run so far.
        limit: the search gives up when `runs` exceeds it.
    """

    def __init__(self, phase: Phase, most: int, work: Work) -> None:
        self.phase, self.most, self.work = phase, most, work
        self.state = State(phase)
        self.order: list[Place] = []
        self.refused: float = inf
        self.runs = 0
        self.limit: float = 0

    def walk(self, patience: int, runs: float) -> Crossed:
        """Searches from valley to valley of the live bytes, and fixes the ops on the way.

        Gives up after running `patience` ops between two valleys, or `runs` ops in all.
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
        """Excludes ops that the search from the other end has fixed."""
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
        """Runs ready ops that do not raise the live bytes until none is left. Returns these ops.

        No choice is lost: after each of these ops, the set of all ops that have run is a valley (no
        set on the way to it has fewer live bytes).
        """
        ran: list[Place] = []
        while fits := [k for k in self.state.light if self.has_room(k)]:
            ran.append(min(fits))
            self.run(ran[-1:])
        return ran

    def cross(self) -> list[Place] | None:
        """Returns the ops that lead to the next valley. Returns None if no valley can be reached.

        A valley is a set of ops after which no more bytes are alive than after any set on the way
        to it. Extends the reached set with the fewest live bytes first. An extension that leaves no
        more bytes alive than the set it extends replaces that set and its other extensions. The
        search ends when only one set is left to extend, or when all ops of the phase have run.
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
        """Yields the moves that the search has to try, each as a sequence of ops.

        An idle op may run at any time and only adds bytes. A move is one op, preceded by the idle
        ops that it waits for, and by some of the idle ops that keep alive a buffer which the op
        could free. An idle op is a move by itself only if there is no other move.
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
        """Returns sets of idle ops (those that may wait), one for each buffer that needs them.

        Op `k` would free the buffer if the idle ops of its set had run before.
        """
        found = []
        for b in self.phase.closes[k]:
            others = {u for u in self.phase.closers[b] if u in self.state.idle and u != k}
            if others and len(others) == self.state.left[b] - 1:
                found.append(others)
        return found

    def has_run(self, move: Sequence[Place]) -> bool:
        """Runs the ops of a move, if each of them fits into the limit. Returns whether they ran."""
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
        """Finds the subset of some ops after which the fewest bytes are alive.

        A buffer is alive from its first opener to its last closer. The subset is a closure of
        greatest gain (Picard 1976): it contains all ops that its ops wait for. It gains the bytes
        of each buffer whose closers have then all run. It pays the bytes of each buffer of which it
        contains an opener. A minimum cut finds it.

        Args:
            path: ops that can run in this order.

        Returns:
            The live bytes after the subset, and its ops in the order of `path`. Of subsets with
            equally few bytes, the one with the most ops.
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
