"""Finds the ops that lead from one valley of the live bytes to the next, within a limit in bytes.

A state of the search is the set of ops that have run. A valley is a state with few live bytes, and
the states between two valleys are a hill. `valleys.py` defines both, and proves that a search which
has reached a valley may forget all other states.

An idle op is a ready op that only adds bytes: it recomputes from a saved tensor, for example, or
makes the gradient of a weight. It may run at any later time too, and so multiplies the states of a
hill. But an idle op can wait. Let an order keep within K bytes and run the idle op r. Let y be the
first op after r that needs r, or that frees a buffer which r uses too. Move r to just before y.
Between the old and the new place of r, fewer bytes are alive than without the move. While r runs in
its new place, no more bytes are alive than just after it, and these are the bytes that were alive
when y began without the move. So the moved order keeps within K bytes too. The search need not try
r by itself: r runs just before such an op y, or at the end of the phase.
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
from roam.solvers.work import Units, Work

# units of work for one call of `State.net`, with all that a search does between two calls. Calls
# are counted, and not ops run, since an op that is run causes more calls in wide graphs; measured
A_WEIGHING: Units = 2_000


@dataclass(eq=False)
class _Reached:
    """A set of ops that can run within the limit on live bytes, as a node of the search tree.

    A child is a set that extends its parent. It has more live bytes than its parent: otherwise it
    would have replaced its parent.

    Attributes:
        live: live bytes when the ops of the set have run.
        ops: the ops that the set has and its parent has not, in an order within the limit.
        parent: the set that was extended to this one; None for the root of the tree.
        children: the sets that were made by extending this one.
        known: the ops of the set, without those that had run when the search of this tree began.
        waiting: whether the search has yet to extend the set.
        gone: whether the set was removed from the tree.
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

        An ancestor is a set that was extended, in one or several steps, to this set, or this set
        itself. Returns None if this set has fewer live bytes than `live`.
        """
        found = None
        at: _Reached | None = self
        while at is not None and at.live >= live:
            found, at = at, at.parent
        return found


class _Tree:
    """The search tree: sets of ops that can run within the limit on live bytes.

    A set is added only if it is not in the tree. A set that was removed from the tree may be added
    again, if the search reaches it by another way.

    Attributes:
        size: how many sets of the tree the search has yet to extend.
    """

    def __init__(self, root: _Reached) -> None:
        self.heap: list[tuple[int, int, _Reached]] = []
        self.seen: set[frozenset[Place]] = set()
        self.turn = count()  # breaks ties: of two sets with equal live bytes the older is first
        self.size = 0
        self.add(root)

    def take(self) -> _Reached | None:
        """Returns the set to extend next: the one with the fewest live bytes of those not extended.

        The set then counts as extended. Returns None if all sets have been extended or removed.
        """
        while self.heap:
            _, _, found = heapq.heappop(self.heap)
            if not found.gone:
                found.waiting = False
                self.size -= 1
                return found
        return None

    def drop(self, top: _Reached) -> None:
        """Removes a set, and all sets that were made by extending it, from the tree."""
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
    """How `Side.walk`, a search from one end of a phase, ended."""

    # every op of the phase has its place, fixed by this search or by the one from the other end
    ALL = auto()
    NO = auto()  # proven: no order of the phase keeps within the limit on live bytes
    # no answer yet: the limit on ops run, work or time is reached; `walk` may be called again
    GAVE_UP = auto()


class Side:
    """The search from one end of a phase, with the ops whose order it has fixed.

    Attributes:
        phase: the phase, as seen from this end.
        state: which ops have run. Between two calls of `walk`, these are the fixed ops.
        most: the limit on live bytes.
        work: limits the work and the time of the search; the work done is added to it.
        order: the fixed ops, beginning with the op nearest to this end of the phase.
        refused: of all ops that did not fit within the limit, the fewest bytes that would have been
            alive while one of them ran; inf if every op fitted.
        runs: number of ops run so far; an op that the search has run again counts again.
        limit: value of `runs` above which the present call of `walk` ends without an answer.
    """

    def __init__(self, phase: Phase, most: int, work: Work) -> None:
        self.phase, self.most, self.work = phase, most, work
        self.state = State(phase)
        self.order: list[Place] = []
        self.refused: float = inf
        self.runs = 0
        self.limit: float = 0
        self.paid: Units = 0  # units of work that `spend` has added so far

    def walk(self, patience: int, runs: float) -> Crossed:
        """Searches from valley to valley, and fixes the ops on the way to each valley.

        A valley is a set of ops after which few bytes are alive (`valleys.py`). Returns ALL if all
        ops of the phase have their place, and NO if no order keeps within the limit. Returns
        GAVE_UP after running more than `patience` ops without reaching the next valley, or more
        than `runs` ops in this call, or if no work is left. A further call then starts again from
        the last valley reached.
        """
        last = self.runs + runs
        self.order += self.descend()
        while not self.is_all(0):
            self.limit = min(self.runs + patience, last)
            hill = self.cross()
            if hill is None:
                return Crossed.GAVE_UP if self.gives_up() else Crossed.NO
            self.run(hill)
            self.order += hill
        return Crossed.ALL

    def block(self, ops: Iterable[Place]) -> None:
        """Keeps this search from running `ops`, which the search from the other end has fixed."""
        self.state.block(ops)

    @property
    def ran(self) -> list[OpId]:
        return [self.phase.ops[k] for k in self.order]

    def gives_up(self) -> bool:
        self.spend()
        return self.runs > self.limit or self.work.is_over()

    def spend(self) -> None:
        """Adds to `self.work` the units of work done since `spend` was last called."""
        done = A_WEIGHING * self.state.weighed
        self.work.spend(done - self.paid)
        self.paid = done

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
        """Runs ready ops that do not raise the live bytes, as long as one fits within the limit.

        Of several, runs the first in program order. Returns the ops run. No choice is lost: after
        each of these ops, the set of all ops that have run is a valley (no set on the way to it has
        fewer live bytes).
        """
        ran: list[Place] = []
        while fits := [k for k in self.state.light if self.has_room(k)]:
            ran.append(min(fits))
            self.run(ran[-1:])
        return ran

    def cross(self) -> list[Place] | None:
        """Returns the ops that lead to the next valley, or None if the search does not reach one.

        A valley is a set of ops after which no more bytes are alive than after any set on the way
        to it. Extends, of the sets reached, the one with the fewest live bytes. If an extension has
        no more live bytes than the set that it extends, `leave_for_valley` drops sets that the
        search may forget. The search has reached a valley if only one set is left to extend, or if
        all ops of the phase have run. It ends without a valley if no set is left to extend (no
        order keeps within the limit), or if its limit is reached. Undoes all ops that it runs.
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

        An idle op only adds bytes, and may run at any later time too. A move is one op, preceded by
        the idle ops that it waits for, and by some of the idle ops that keep a buffer alive which
        the op could otherwise free. An idle op is a move by itself only if there is no other move.
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
        """Returns, for each buffer that op `k` would free but for idle ops, the set of these ops.

        Idle ops are ready, only add bytes, and may wait. Op `k` would free the buffer if all idle
        ops of the set had run before `k`.
        """
        found = []
        for b in self.phase.closes[k]:
            others = {u for u in self.phase.closers[b] if u in self.state.idle and u != k}
            if others and len(others) == self.state.left[b] - 1:
                found.append(others)
        return found

    def has_run(self, move: Sequence[Place]) -> bool:
        """Runs the ops of a move one by one, if each of them fits within the limit on live bytes.

        Returns whether all of them ran. If an op does not fit, undoes those before it.
        """
        for n, k in enumerate(move):
            if not self.has_room(k):
                self.undo(move[:n])
                return False
            self.run([k])
        return True

    def leave_for_valley(self, tree: _Tree, top: _Reached, ops: Sequence[Place]) -> None:
        """Replaces the set `top`, and all sets that extend it, by one set: a valley after `top`.

        The valley is `top` with those of `ops` after which the fewest bytes are alive.

        Args:
            tree: the search tree.
            top: a set of the tree.
            ops: ops that can run after `top`, in this order. After all of them, no more bytes are
                alive than after `top`.
        """
        before = top.path()
        self.run(before)
        live, least = self.lowest(ops)
        self.undo(before)
        tree.drop(top)
        tree.add(_Reached(live, top.ops + least, top.parent))

    def lowest(self, path: Sequence[Place]) -> tuple[int, tuple[Place, ...]]:
        """Finds the subset of `path` after which the fewest bytes are alive.

        A buffer is alive from its first opener to its last closer (`progress.Phase`). With each op,
        the subset contains all ops of `path` that this op waits for. It gains the bytes of each
        buffer whose closers have all run with it, and pays the bytes of each buffer that one of its
        ops opens. Such a subset with the greatest gain is a closure (Picard 1976), which a minimum
        cut finds.

        Args:
            path: ops that can run next, in this order.

        Returns:
            The live bytes after the subset, and its ops in the order of `path`. If several subsets
            leave the fewest bytes alive, the one with the most ops.
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
