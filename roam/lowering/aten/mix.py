"""Keeps a graph within a limit by transfers and copies of ops together, in the least extra time.

    transfers that stall no op ────┐
    more transfers, which stall ───┼── copies, until the limit is kept ── the least extra time
    no transfers ──────────────────┘

The extra time is the time of the copies, plus the time for which ops wait for transfers (stalls).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from torch import fx

from roam.capture.fx_problem import Captured
from roam.core.budget import Budget, Following
from roam.core.errors import UnplannableError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.sizes import show_size
from roam.lowering.aten.budget_graph import makes_tangents
from roam.lowering.aten.budget_search import Best, Searches
from roam.lowering.aten.footprint import Unlimited
from roam.lowering.aten.offload import MovedOut, Mover
from roam.planner import (
    Copies,
    extra_time_bound,
    least_at_once,
    least_needed,
    mixed_time_bound,
)

# Transfers are chosen as if the tier were faster by these factors. The larger the factor, the more
# tensors move and the longer ops wait. With the last factor, every tensor can move.
SPEEDS = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 1e6)
PROVING: Seconds = 2.0  # limit on the work of each search for a lower bound
ROUNDS = 3  # limit on the values of `above` that `Mixes._copies_first` tries
WORTH = 0.002  # part of the step's seconds: if the extra time is shorter, the search ends
CLOSE = 0.001  # part of the step's seconds: proofs end with a bound this close to the time found


@dataclass(frozen=True)
class Mix:
    """A joint graph with copies and transfers.

    Attributes:
        joint: the graph.
        captured: the Problem of `joint`.
        plan: the plan of `captured`.
        extra: seconds that copies and transfers add to the step, by the costs of ops: those of the
            copies, and those for which ops wait for transfers.
        copies: the copies; None without any.
        moved: the transfers; None without any.
    """

    joint: fx.GraphModule
    captured: Captured
    plan: Plan
    extra: Seconds
    copies: Copies | None
    moved: MovedOut | None


@dataclass(frozen=True)
class Mixes:
    """Searches for copies and transfers of one graph.

    Attributes:
        search: searches for copies of the graph without transfers.
        mover: moves tensors to a tier; None if nothing may move.
    """

    search: Searches
    mover: Mover | None

    @property
    def seconds(self) -> Seconds:
        """The time of the graph without copies and transfers, by the costs of its ops."""
        return sum(op.cost for op in self.search.captured.problem.ops)

    def cheapest(self, limit: Bytes) -> Mix | None:
        """Searches for the mix within a limit that takes the least extra time.

        Returns the cheapest mix found; None if none is found. If transfers that stall no op keep
        the limit by themselves, returns them. Else tries copies alone, then mixes whose copies are
        chosen first, then mixes whose transfers are chosen first. The search ends as soon as the
        extra time is at most WORTH of the step's time. If all fail, returns the mix with the
        smallest peak (`smallest`), if that keeps the limit.

        limit: the limit on the peak, in transient bytes.
        """
        moved = self._moved(limit)
        if moved is not None and moved.plan.peak <= limit:
            return self._within(moved, limit)
        found = self.search.cheapest(limit)
        best = None if found is None else self._mix(self.search, found, None)
        if self.mover is not None:
            for mixed in (self._copies_first, self._moves_first):
                if best is None or best.extra > WORTH * self.seconds:
                    best = mixed(limit, best, moved)
        if best is None and self.smallest.plan.peak <= limit:
            best = self.smallest
        return best

    def _copies_first(self, limit: Bytes, best: Mix | None, moved: MovedOut | None) -> Mix | None:
        """Searches for a mix cheaper than `best` by choosing copies before transfers.

        Returns the cheapest mix that keeps the limit; `best` if no cheaper one is found. The copies
        lower the peak to a limit `above`, and transfers without a stall lower it further:

            first.peak ──── copies ──── above ──── transfers ──── limit

        Tries up to ROUNDS values of `above`. The first guess assumes that transfers lower the peak
        by as much as they do without copies. Each further guess assumes that they lower it by as
        much as they did after the last guess. A guess outside the interval still in question is
        replaced by its middle.

        moved: the graph with transfers that stall no op, and no copies; None if there are none.
        """
        search = self.search
        low, high = limit, search.first.peak
        above = limit + (0 if moved is None else high - moved.plan.peak)
        for _ in range(ROUNDS):
            if not low < above < high:
                above = (low + high) // 2
            found = search.cheapest(above)
            if found is None or (best is not None and found.copies.cost >= best.extra):
                low = above
                continue
            mix = self._with_moves(self._mix(search, found, None), limit)
            if mix.plan.peak <= limit:
                low, best = above, _cheaper(best, mix)
            else:
                high = above
            above -= mix.plan.peak - limit
        return best

    def _moves_first(self, limit: Bytes, best: Mix | None, moved: MovedOut | None) -> Mix | None:
        """Searches for a mix cheaper than `best` by choosing transfers before copies.

        Returns the cheapest mix that keeps the limit; `best` if no cheaper one is found. Tries more
        and more transfers: those chosen as if the tier were faster by each of SPEEDS. Once there is
        a mix, stops at the first speed above 1 at which no transfers lower the peak, or their
        stalls alone take as long as the best mix. Stops, too, if a speed gives the same plan as the
        speed before, or if the transfers keep the limit without copies.

        moved: the graph with transfers that stall no op; None if there are none.
        """
        before = ""
        for speed in SPEEDS:
            too_long = inf if best is None else best.extra
            out = moved if speed == 1.0 else self._moved(limit, speed, too_long)
            if out is None and best is not None and speed > 1.0:
                break  # with more transfers, ops wait even longer
            if out is None:
                continue
            if out.plan.fingerprint == before:
                break  # no further transfer lowers the peak
            before = out.plan.fingerprint
            best = _cheaper(best, self._within(out, limit))
            if out.plan.peak <= limit:
                break
        return best

    def _with_moves(self, mix: Mix, limit: Bytes) -> Mix:
        """Adds transfers to a mix of copies. They lower its peak towards `limit` and stall no op.

        Returns the new mix; `mix` itself if there are no such transfers.
        """
        assert self.mover is not None
        out = self.mover.moved(mix.joint, mix.captured, mix.plan, limit)
        if out is None:
            return mix
        return Mix(out.joint, out.captured, out.plan, mix.extra + out.stalled, mix.copies, out)

    def beside_others(
        self, budget: Budget, limit: Bytes, saved: Bytes, unlimited: Unlimited
    ) -> Mix:
        """Returns a mix for a budget, if other graphs run between the forward and the backward.

        Adds transfers that lower the peak and stall no op, and then, if these do not suffice,
        copies. If nothing suffices, the mix may exceed `limit` and `saved`
        (`Searches.beside_others`).

        Args:
            budget: the user's budget.
            limit: transient bytes that the graph may take.
            saved: bytes that the forward may leave alive for the backward.
            unlimited: the bytes that the graph takes without a budget.
        """
        out = self._moved(max(0, limit))
        if out is not None and out.plan.peak <= limit and out.left <= saved:
            return Mix(out.joint, out.captured, out.plan, out.stalled, None, out)
        search = self._beside(out)
        return self._mix(search, search.beside_others(budget, limit, saved, unlimited), out)

    def beside_known(self, limit: Bytes, following: Following) -> Mix:
        """Returns the cheapest mix of copies alone that leaves to other graphs what they take.

        Raises UnplannableError if none is found.
        """
        captured = self.search.captured
        problem = captured.problem
        tangents = problem.ops[makes_tangents(captured)].creates  # the others have made them
        room = following.most - sum(problem.buffers[b].size for b in tangents)
        found = self.search.cheapest(limit, max(0, room))
        if found is None:
            took = show_size(following.most)
            raise UnplannableError(f"no plan was found beside the {took} that later graphs take")
        return self._mix(self.search, found, None)

    @cached_property
    def smallest(self) -> Mix:
        """The mix with the smallest peak that the search finds, whatever its extra time."""
        found = [self._mix(self.search, self.search.smallest(), None)]
        if self.mover is not None:
            found.append(self._with_moves(found[0], 0))
            out = self._moved(0, SPEEDS[-1])
            search = self._beside(out)
            found.append(self._mix(search, search.smallest(), out))
        return min(found, key=lambda mix: mix.plan.peak)

    @property
    def least(self) -> Bytes:
        """A lower bound, in bytes, on the peak with any copies and, if allowed, any transfers."""
        step = self.search.graphs(0)[0].step
        if self.mover is not None:
            return least_at_once(step)
        return least_needed(step, self.search.first, PROVING)

    def bound(self, limit: Bytes, found: Seconds) -> Seconds:
        """Returns a lower bound on the extra seconds of any mix within the limit, in any op order.

        found: the extra seconds of a known mix that keeps the limit.
        """
        step, first = self.search.graphs(0)[0].step, self.search.first
        enough = found - CLOSE * self.seconds

        def recomputing(limit: Bytes) -> Seconds:
            return extra_time_bound(step, first, limit, PROVING, enough)

        if self.mover is None:
            return recomputing(limit)
        problem, boundary = step.problem, step.boundary
        saved = {b for op in problem.ops[boundary:] for b in op.touches}
        saved &= {b for op in problem.ops[:boundary] for b in op.creates}
        movable = sum(problem.buffers[b].size for b in saved)
        return mixed_time_bound(
            recomputing,
            limit,
            self.seconds,
            movable,
            self.mover.tier.link.slower(1 / self.mover.tier.slower),
            found,
        )

    def _beside(self, out: MovedOut | None) -> Searches:
        """Returns a search for copies to add to `out`, the graph with transfers.

        If `out` is None, returns the search for copies of the graph without transfers.
        """
        if out is None:
            return self.search
        assert self.mover is not None
        return replace(
            self.search,
            joint=out.joint,
            captured=out.captured,
            first=out.plan,
            plan_of=self.mover.plan_of,
            plans={out.captured.problem.fingerprint: out.plan},
        )

    def _moved(self, limit: Bytes, speed: float = 1.0, too_long: Seconds = inf) -> MovedOut | None:
        """Returns the graph without copies, with transfers that lower its peak; None without any.

        limit: a peak, in bytes, that need not be lowered further.
        speed: transfers are chosen as if the tier were faster by this factor.
        too_long: transfers for which ops would wait for this many seconds or more are not made.
        """
        if self.mover is None:
            return None
        search, how = self.search, (limit, speed, too_long)
        return self.mover.moved(search.joint, search.captured, search.first, *how)

    def _within(self, out: MovedOut, limit: Bytes) -> Mix | None:
        """Adds copies to the graph with transfers `out` until the limit is kept.

        Adds none if the transfers alone keep it. Returns None if no copies are found that keep it.
        """
        if out.plan.peak <= limit:
            return Mix(out.joint, out.captured, out.plan, out.stalled, None, out)
        search = self._beside(out)
        found = search.cheapest(limit)
        return None if found is None else self._mix(search, found, out)

    @staticmethod
    def _mix(search: Searches, found: Best, out: MovedOut | None) -> Mix:
        """Returns copies `found` by `search`, and transfers `out` if any, as one mix."""
        extra, captured = found.copies.cost, search.captures[found.joint]
        if out is not None:
            out = replace(out, joint=found.joint, captured=captured, plan=found.plan).timed()
            extra += out.stalled
        return Mix(found.joint, captured, found.plan, extra, found.copies, out)


def _cheaper(one: Mix | None, other: Mix | None) -> Mix | None:
    """Returns the mix with less extra time, `one` if both take the same; None if both are None."""
    found = [mix for mix in (one, other) if mix is not None]
    return min(found, key=lambda mix: mix.extra, default=None)
