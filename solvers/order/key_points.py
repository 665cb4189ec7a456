"""Finds the key points at which a phase may be cut without losing the best order.

    live        ╱╲      ╱╲         T: the ops that have run at some moment, with few bytes alive.
    bytes  ╲  ╱    ╲__╱    ╲       Is there a best order that runs T's ops first, then all others?
             T1     T2       ╲     If so, T is a *safe* key point, and the phase may be cut there.

Let σ be an order, X the set of ops that have run in σ at some time, and T a set that contains, with
each op, all ops that it waits for. Move T's ops to the front, without changing their order. In σ,
some op runs next after X. If it is an op of T, it now runs when X ∩ T has run; if not, when X ∪ T
has. Live bytes of sets are submodular:

    live(X ∩ T) + live(X ∪ T) <= live(X) + live(T)

So an op of T runs with no more bytes alive than in σ if live(T) <= live(X ∪ T), and any other op if
live(T) <= live(X ∩ T). Nothing changes for an op of T if X lies in T, nor for another op if X
contains T. So these conditions have to be checked:

    first   live(T) <= live(Y) for all sets Y = X ∩ T, if an op outside of T could run after X.
            These are the sets Y within T that contain all ancestors of some op x, where x is an op
            outside of T whose predecessors are all in T.
            Then the ops outside of T lose nothing by waiting for all of T.
    last    live(T) <= live(Z) for all sets Z = X ∪ T, if X lacks an op of T. These are the sets Z
            that contain T and no descendant of some op t, where t is an op of T for which no other
            op of T waits.
            Then the ops of T lose nothing by running before all others.

Both conditions hold if few bytes are alive at T. They also hold if every op outside of T waits for
all of T, as at the key points of ROAM (arXiv 2310.19295, section 4). A minimum cut for every x and
for every t decides (`solvers/bound/min_cut.py`). T is safe if both conditions hold. For limits not
below an *aim*, less suffices: *first*, if the known order runs T's ops within the aim, because T's
ops may run in that order; *last*, if it runs all other ops within the aim.

So if some order keeps within a limit that is not below the aim, then an order that passes through T
keeps within that limit too. The same holds for all safe key points of one known order together:
move the ops of the smallest T to the front first, then those of the next larger T, and so on. No
move undoes those before it. Hence a lower bound of a segment between two safe key points, as a
Problem of its own, is a lower bound of the step if it is above the aim.

Candidates for T are the sets at the local minima of the live bytes of a known order. No set between
the two peaks beside a local minimum has fewer live bytes than the minimum. Each op on the way down
to the minimum lowers the live bytes, and would lower them at least as much after more ops. Each op
on the way up raises the live bytes, and would raise them at least as much after fewer ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from roam.core.problem import OpId, Problem
from roam.solvers.bound.min_cut import A_CUT, AN_ARC, Network
from roam.solvers.order.progress import Phase, Place, State
from roam.solvers.work import Work

Time = int  # number of ops of the phase that have run


class Curve(NamedTuple):
    """The live bytes of an order of a phase, if every op could use all its in-place pairs.

    An in-place pair is a result and a dying buffer that the result may be written over. Some pairs
    may need another order, so the measured live bytes can be higher while an op runs.

    Attributes:
        during: item t is the bytes alive while the op at time t runs.
        after: item t is the bytes alive when t ops have run; the last item is of the phase's end.
    """

    during: list[int]
    after: list[int]


def curve_of(problem: Problem, phase: int, order: Sequence[OpId]) -> Curve:
    """Returns the live bytes of an order of a phase, if every op could use all its in-place pairs.

    An in-place pair is a result and a dying buffer that the result may be written over.
    """
    place = {i: k for k, i in enumerate(problem.phases[phase])}
    state = State(Phase(problem, phase))
    during, after = [], [state.live]
    for i in order:
        during.append(state.takes(place[i]))
        state.run(place[i])
        after.append(state.live)
    return Curve(during, after)


def local_minima(after: Sequence[int]) -> list[Time]:
    """Returns the times of local minima of the live bytes, which fell before and rise after.

    If a minimum lasts several times, returns the last of these times. `after` is the live bytes by
    the number of ops that have run. Its first and its last item are no local minima.
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
    """Finds safe key points of one phase: moments at which a cut does not lose the best order.

    Keeps the flow network of the phase, whose minimum cuts decide which key points are safe.
    """

    def __init__(self, problem: Problem, phase: int, work: Work | None = None) -> None:
        self.problem, self.phase, self.work = problem, phase, work or Work()
        self.network = Network(problem, phase, 1 + sum(b.transient for b in problem.buffers))
        self.cost = A_CUT + AN_ARC * len(self.network.tails)

    def cut(self, order: Sequence[OpId], aim: int) -> list[Time]:
        """Returns the safe key points among the local minima of an order's live bytes.

        A key point is safe if every order that keeps within a limit not below `aim` can be changed,
        within the limit, to run the ops that have run at the key point before all others.

        The beginning of the order, up to the first op that needs more bytes than the aim, is cut
        only at its last safe key point. The end of the order, after the last such op, is cut only
        at its first safe key point: nothing can be gained in a part that keeps within the aim.

        Args:
            order: a known order of the phase.
            aim: the lowest limit on live bytes for which the cuts must not lose an order. The
                higher the aim, the longer are the beginning and the end of the known order that
                keep within it.

        Returns:
            How many ops of the order have run at each key point, in ascending order. The first item
            is 0, the last item is the number of all ops. No other items if the whole order keeps
            within the aim. A key point counts as not safe if no work is left to decide.
        """
        n = len(order)
        during, after = curve_of(self.problem, self.phase, order)
        above = [t for t in range(n) if during[t] > aim]
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
        """Returns whether all other ops can wait for the first `t` ops of an order at no cost.

        If so, any order can be changed so that all other ops wait, and none of them then runs with
        more bytes alive. This is the condition *first* of the module's docstring. Returns False too
        if no work is left to decide.

        Args:
            places: the ops of a known order, each by its index in program order.
            t: how many ops of the order have run at the key point.
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
        """Returns whether the first `t` ops of an order can run before all others at no cost.

        If so, any order can be changed so that these `t` ops run first, and none of them then runs
        with more bytes alive. This is the condition *last* of the module's docstring. Returns False
        too if no work is left to decide.

        Args:
            places: the ops of a known order, each by its index in program order.
            t: how many ops of the order have run at the key point.
            live: the bytes alive then.
        """
        before, later = places[:t], set(places[t:])
        network = self.network
        if self.is_least(live, before, ()):
            return True
        last = (k for k in before if later.issuperset(network.after[k]))
        waiting = (network.descendants(k) for k in last)
        return all(len(w) == len(later) or self.is_least(live, before, w) for w in waiting)

    def is_least(self, live: int, ran: Iterable[Place], later: Iterable[Place]) -> bool:
        """Returns whether every set of ops with `ran` and without `later` leaves >= `live` bytes.

        A set leaves the bytes that are alive when, of the phase, exactly its ops have run, and all
        ops of earlier phases. With each op, a set contains all ops that the op waits for. Ops are
        given by their index in program order. Returns False if no work is left to find out.
        """
        if self.work.is_over():
            return False
        self.work.spend(self.cost)
        return live <= self.network.least(ran, later).live
