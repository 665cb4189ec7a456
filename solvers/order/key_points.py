"""Finds the key points at which a phase may be cut without losing the best order.

    live        ╱╲      ╱╲         T: the ops that have run at some moment, with few bytes alive.
    bytes  ╲  ╱    ╲__╱    ╲       Is there a best order that runs T's ops first, then all others?
             T1     T2       ╲     If so, T is a *safe* key point, and the phase may be cut there.

Let X be the ops that an order σ has run at some time, and T a set of ops with all that they wait
for. Move T's ops to the front, in the order of σ. An op of T that ran after X then runs after
X ∩ T; any other op after X ∪ T. Live bytes of sets are submodular, so

    live(X ∩ T) + live(X ∪ T) <= live(X) + live(T)

and no op runs with more bytes alive than before, if live(T) <= live(X ∪ T) for the ops of T, and
live(T) <= live(X ∩ T) for the others. Only sets X count that neither lie in T nor contain T: in all
other cases the op runs after the same set as before, or after T instead of a set X within T.

    first   live(T) <= live(Y) for all Y within T from which an op outside of T could run: those
            that contain all that some op x outside of T, for which T has all it needs, waits for.
            Then the ops outside of T lose nothing by waiting for T.
    last    live(T) <= live(Z) for all Z that contain T and could run while an op of T waits: those
            without the ops that wait for t, for some op t of T for which no op of T waits.
            Then the ops of T lose nothing by running before all others.

Both hold if few bytes are alive at T, and also if every op outside of T waits for all of T, as at
the key points of ROAM (arXiv 2310.19295, section 4). A minimum cut for every x and for every t
decides (`solvers/bound/min_cut.py`). T is safe if both hold. If an order is known that runs T's ops
within a proven lower bound, *first* suffices, since T's ops may run in that order; if it runs the
others within the bound, *last* suffices.

So if some order keeps within a limit that is not below the bound, an order through T does so too.
That holds for all safe key points of one known order together: moving to the front the ops of the
smallest first, each move leaves intact what the moves before it did. Hence the lower bound of a
segment between two of them, as a Problem of its own, is a lower bound of the step.

The sets to look at are those at the local minima of an order's live bytes. No set between the peaks
beside a local minimum has fewer bytes: each op on the way down to it lowers the live bytes, and
would do so all the more after other ops; each op on the way up raises them, and would do so all the
more before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from roam.core.problem import OpId, Problem
from roam.solvers.bound.min_cut import A_CUT, AN_ARC, Network
from roam.solvers.order.progress import Phase, Place, State
from roam.solvers.work import Work

Time = int  # how many ops of the phase have run


class Curve(NamedTuple):
    """The live bytes of an order, as if every op wrote over all that it may ever write over.

    Attributes:
        during: by time, the bytes alive while the op runs that comes next.
        after: by time, the bytes alive before that op; its last item is of the end of the phase.
    """

    during: list[int]
    after: list[int]


def curve_of(problem: Problem, phase: int, order: Sequence[OpId]) -> Curve:
    """Returns the live bytes of an order of a phase, with all reuse granted."""
    place = {i: k for k, i in enumerate(problem.phases[phase])}
    state = State(Phase(problem, phase))
    during, after = [], [state.live]
    for i in order:
        during.append(state.takes(place[i]))
        state.run(place[i])
        after.append(state.live)
    return Curve(during, after)


def local_minima(after: Sequence[int]) -> list[Time]:
    """Returns the inner times at which fewer bytes are alive than some time before and after.

    Of neighbouring times with equally few bytes the last.
    """
    found: list[Time] = []
    falling = False
    for t in range(1, len(after)):
        if after[t] > after[t - 1]:
            if falling:
                found.append(t - 1)
            falling = False
        elif after[t] < after[t - 1]:
            falling = True
    return found


class Cutter:
    """Finds safe key points of one phase. Keeps its flow network."""

    def __init__(self, problem: Problem, phase: int, work: Work | None = None) -> None:
        self.problem, self.phase, self.work = problem, phase, work or Work()
        self.network = Network(problem, phase, 1 + sum(b.transient for b in problem.buffers))
        self.cost = A_CUT + AN_ARC * len(self.network.tails)

    def cut(self, order: Sequence[OpId], bound: int) -> list[Time]:
        """Returns the safe key points among an order's local minima of live bytes.

        Of the part of the order that keeps within the bound from the start on, and of that which
        does so to the end, only the innermost key point: nothing is to be gained there.

        Args:
            order: a known order of the phase.
            bound: a proven lower bound on the peak of the step, in bytes. The less of the order
                lies above it, the more key points are safe.

        Returns:
            How many ops of the order have run at each key point, in ascending order. The first is
            0, the last the number of all ops.
        """
        n = len(order)
        during, after = curve_of(self.problem, self.phase, order)
        above = [t for t in range(n) if during[t] > bound]
        if not above:
            return [0, n]
        times = local_minima(after)
        places = [self.network.place[i] for i in order]
        early = [t for t in times if t <= above[0]]
        late = [t for t in times if t > above[-1]]
        inner = [t for t in times if above[0] < t <= above[-1]]
        first = next((t for t in reversed(early) if self.is_first(places, t, after[t])), 0)
        last = next((t for t in late if self.is_last(places, t, after[t])), n)
        both = (
            t
            for t in inner
            if self.is_first(places, t, after[t]) and self.is_last(places, t, after[t])
        )
        return sorted({0, first, *both, last, n})

    def is_first(self, places: Sequence[Place], t: Time, live: int) -> bool:
        """Returns whether the ops from time t on lose nothing by waiting for all before.

        Args:
            places: an order, by the places of its ops in program order.
            t: how many of them have run at the key point.
            live: the bytes alive then.
        """
        before, later = set(places[:t]), places[t:]
        network = self.network
        if self.is_least(live, (), later):
            return True
        ready = (k for k in later if before.issuperset(network.before[k]))
        waited_for = (network.ancestors(k) for k in ready)
        return all(len(ran) == t or self.is_least(live, ran, later) for ran in waited_for)

    def is_last(self, places: Sequence[Place], t: Time, live: int) -> bool:
        """Returns whether the ops before time t lose nothing by running before all others."""
        before, later = places[:t], set(places[t:])
        network = self.network
        if self.is_least(live, before, ()):
            return True
        last = (k for k in before if later.issuperset(network.after[k]))
        waiting = (network.descendants(k) for k in last)
        return all(len(w) == len(later) or self.is_least(live, before, w) for w in waiting)

    def is_least(self, live: int, ran: Iterable[Place], later: Iterable[Place]) -> bool:
        """Returns whether no set with `ran` and without `later` has fewer than `live` bytes.

        Returns False if there is no work left to find out.
        """
        if self.work.is_over():
            return False
        self.work.spend(self.cost)
        return live <= self.network.least(ran, later).live
