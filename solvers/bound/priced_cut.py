"""Proves lower bounds on the time that recomputing adds, and on the peak that it can reach.

Consider the moment just before an op k runs for the first time, in any schedule, with any order and
any number of copies. Every other op is in one of three states:

    not yet run      x = 0, z = 0
    over             x = 1, z = 1      it ran, and does not run later
    runs again       x = 1, z = 0      it ran, and runs later: adds its time at least once

A buffer is alive at that moment if its maker is over, and a reader of the buffer runs later or the
user keeps the buffer. So

    extra time ≥ min over (x, z) of [ Σ cost·x·(1 - z) + price·live(x, z) ] - price·(budget - own)

for every price ≥ 0, in seconds for each byte, where `own` are the bytes that k itself adds and
reads. The minimum is a minimum cut of a network with two nodes for each op and one for each buffer:

    x ──cost──> z        cut if the op ran (x is on the source's side) and runs again (z is not)
    z ──∞────> x         an op that is over has run
    x ──∞────> x of each predecessor
    z of the maker ──price·size──> buffer ──∞──> z of each reader

The bound is concave in the price, and Newton's method finds the best price (or, if it would take
more than PRICES steps, a good one: every price proves a bound). An infinite price bounds bytes: if
the budget is exceeded at k's moment even if copies cost nothing, no schedule keeps the budget. The
bounds hold for all schedules that `roam.core.edits.Recompute` can make, and for others.

A copy may read and make less than the op, for example if dropout reads the mask of its first run
(`Form`). Then the copy needs less, and a buffer that only the first run makes is alive until its
last reader has run.

If ops change buffers in place, a reader needs the buffer as it was after the last change before the
reader. An op that changes a buffer never runs twice. An op that reads a buffer of the user's, such
as a parameter, does not run again after that buffer has been changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, inf

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from roam.core.bounds import reached
from roam.core.machine import Bytes, Seconds
from roam.core.problem import OpId, Problem
from roam.solvers.bound.min_cut import AFTER, BEFORE, own_bytes
from roam.solvers.bound.priced_network import NEVER, PricedNetwork
from roam.solvers.form import Form, as_they_are
from roam.solvers.work import Units

# about the sum of all finite capacities of a network. Seconds and bytes are scaled to whole numbers
# that add up to it, so that sums of capacities fit into 64 bits
CAPACITY = 2**42
# takes the place of a node's number if the node and its arcs are left out of the network
LEFT_OUT = -1
# limit on the prices tried for one op; Newton's method usually ends after five
PRICES = 30
# units of work for one cut: A_CUT, plus AN_ARC per arc of the flow network; measured
A_CUT, AN_ARC = 100_000, 120


@dataclass(frozen=True)
class Moment:
    """A state of the ops just before an op runs for the first time, as a cut found it.

    Attributes:
        seconds: the time that the copies of the ops of `again` take together.
        live: transient bytes alive while the op runs.
        again: the ops that ran before and run again later. Their results are not worth keeping at
            this moment, which is a hint for searches.
        over: the ops that ran before and do not run again.
    """

    seconds: Fraction
    live: Bytes
    again: frozenset[OpId]
    over: frozenset[OpId]


@dataclass(frozen=True)
class TimeBound:
    """A lower bound on the seconds that recomputing adds to any schedule within a budget.

    Attributes:
        seconds: the bound; inf if it is proven that no schedule keeps the budget.
        op: the op at whose first run the bound is proven; None for the trivial bound 0, and if the
            buffers that the user keeps exceed the budget at the end.
        price: the price that proves the bound, in seconds for each byte; inf if `seconds` is inf.
        moments: the states of other ops found at its first run, the cheapest in seconds first.
    """

    seconds: Seconds
    op: OpId | None = None
    price: float = 0.0
    moments: tuple[Moment, ...] = ()


class PricedCuts:
    """Bounds what recomputing must cost for a Problem, op by op, by minimum cuts.

    Args:
        problem: the Problem.
        forms: by op that may be recomputed, the form of its copies. If left out, the copy of an op
            does all that the op does (`as_they_are`).
        in_order: whether to bound only schedules whose first runs are in program order.

    Attributes:
        net: the flow network of the Problem.
        costs, total: by op, the seconds of its copy (of the op, if it has none); their sum.
        step: the greatest common divisor of all costs if they are whole seconds; else 0.
    """

    def __init__(
        self, problem: Problem, forms: Mapping[OpId, Form] | None = None, *, in_order: bool = False
    ) -> None:
        self.problem, self.in_order = problem, in_order
        self.net = PricedNetwork(problem, as_they_are(problem) if forms is None else forms)
        self.costs, self.total = self.net.costs, sum(self.net.costs, Fraction(0))
        whole = all(cost.denominator == 1 for cost in self.costs)
        self.step = gcd(*(int(cost) for cost in self.costs)) if whole else 0

    def cost(self) -> Units:
        """Returns the units of work (about a nanosecond each) of one minimum cut of the network."""
        return A_CUT + AN_ARC * len(self.net.tails)

    def least(self, op: OpId) -> Bytes:
        """Returns a lower bound on the transient bytes alive when `op` first runs.

        The bound holds for any copies; with `self.in_order`, for first runs in program order only.
        """
        return self._fewest(self._sides(op), op, again=0.0)[0]

    def extra(self, op: OpId, budget: Bytes) -> TimeBound:
        """Returns a lower bound on the extra time, proven at the moment when `op` first runs.

        The bound is inf if at this moment even copies that cost nothing cannot keep the budget.
        `budget` is the transient bytes that no moment of the schedule may exceed.
        """
        sides = self._sides(op)
        _, cheap = self._fewest(sides, op, again=None)
        least, dear = self._fewest(sides, op, again=0.0)
        if least > budget:
            return TimeBound(inf, op, inf, (dear,))
        moments, best, best_price = {cheap, dear}, Fraction(0), Fraction(0)
        # `cheap` exceeds the budget, `dear` keeps it: at the next price, both cost the same
        while cheap.live > budget >= dear.live and len(moments) < PRICES:
            price = (dear.seconds - cheap.seconds) / (cheap.live - dear.live)
            if price <= 0:
                break
            value, found = self._bound(sides, op, price, budget)
            if value > best:
                best, best_price = value, price
            if found in moments:
                break
            moments.add(found)
            if found.live > budget:
                cheap = found
            else:
                dear = found
        hints = sorted(moments, key=lambda m: (m.seconds, m.live))
        return TimeBound(self._rounded(best), op, float(best_price), tuple(hints))

    def within(self, op: OpId, seconds: Seconds) -> tuple[Moment, ...]:
        """Searches for the state with the fewest live bytes whose copies take at most `seconds`.

        A cut finds the best state at one price for each byte. Returns all states found, the
        cheapest in seconds first: some whose copies take at most `seconds`, then perhaps some whose
        copies take longer. No price has a best state between these two kinds, so further cuts come
        no nearer to `seconds` (unless the search ended at PRICES states).

        Args:
            op: the states are those just before the first run of this op.
            seconds: the limit on the time of copies.
        """
        sides = self._sides(op)
        _, cheap = self._fewest(sides, op, again=None)
        _, dear = self._fewest(sides, op, again=0.0)
        moments = {cheap, dear}
        while cheap.live > dear.live and dear.seconds > seconds and len(moments) < PRICES:
            price = (dear.seconds - cheap.seconds) / (cheap.live - dear.live)
            if price <= 0:
                break
            _, found = self._bound(sides, op, price, 0)
            if found in moments:
                break
            moments.add(found)
            if found.seconds <= seconds:
                cheap = found
            else:
                dear = found
        return tuple(sorted(moments, key=lambda m: (m.seconds, m.live)))

    def _fewest(
        self, sides: NDArray[np.int32], op: OpId, again: float | None
    ) -> tuple[Bytes, Moment]:
        """Returns a lower bound on the bytes alive when `op` first runs, and the state found.

        `sides` is what `_sides(op)` returns. `again` is 0 if ops may be recomputed at no cost, None
        if they may not be recomputed.
        """
        a_byte = min(1.0, CAPACITY / max(1, self.net.sizes))
        flow, found = self._cut(sides, op, again, a_byte)
        return -int(-flow / Fraction(a_byte) // 1) + self.own(op), found

    def _rounded(self, seconds: Fraction) -> Seconds:
        """Returns the bound as a float.

        If all costs are multiples of `step` seconds, rounds up to the next multiple, because every
        sum of costs is a multiple too. If `step` is 0, rounds down.
        """
        if self.step:
            return float(-(-seconds // self.step) * self.step)
        rounded = float(seconds)
        return rounded if Fraction(rounded) <= seconds else float(np.nextafter(rounded, 0))

    def _sides(self, op: OpId) -> NDArray[np.int32]:
        """Returns, by node of the network, its side of the cut just before `op` first runs.

        The side is BEFORE (has run) or AFTER if `op` alone decides it: the ancestors of `op` and
        earlier phases have run; `op`, its descendants and later phases have not. With
        `self.in_order`, exactly the ops before `op` in program order have run. The side is LEFT_OUT
        for a buffer that `op` reads or changes, and the node's own number if the cut decides.
        """
        ops, phase = self.problem.ops, self.problem.ops[op].phase
        if self.in_order:
            before, after = set(range(op)), set(range(op, len(ops)))
        else:
            before = reached(op, self.problem.predecessors) - {op}
            before |= {i for i, other in enumerate(ops) if other.phase < phase}
            after = reached(op, self.problem.successors)
            after |= {i for i, other in enumerate(ops) if other.phase > phase}
        side = np.arange(self.net.nodes, dtype=np.int32)
        for i in before:
            side[self.net.ran[i]] = BEFORE
        for i in after:
            side[self.net.ran[i]] = side[self.net.over[i]] = AFTER
        for node in self.net.reads[op]:
            side[node] = LEFT_OUT  # always alive: counted by `own`
        return side

    def _bound(
        self, sides: NDArray[np.int32], op: OpId, price: Fraction, budget: Bytes
    ) -> tuple[Fraction, Moment]:
        """Returns a lower bound on the extra seconds, proven at a price, and the state of its cut.

        `price` is in seconds for each byte. The bound is free of rounding errors of floats.
        """
        scale = CAPACITY / float(self.total + price * self.net.sizes)
        per_byte = float(price) * scale
        flow, found = self._cut(sides, op, scale, per_byte)
        room = budget - self.own(op)
        # capacities are rounded down, so the cut's capacity is a lower bound on the true minimum
        return (flow - Fraction(per_byte) * room) / Fraction(scale), found

    def own(self, op: OpId) -> Bytes:
        """Returns the transient bytes that are alive while `op` runs, whatever else is alive.

        These are the buffers that it reads, changes and makes, and its scratch space, less the
        results that it may write over dying buffers.
        """
        return self._inputs(op) + own_bytes(self.problem, op)

    def _inputs(self, op: OpId) -> Bytes:
        touched = self.problem.ops[op]
        used = dict.fromkeys((*touched.reads, *touched.mutates))
        return sum(self.problem.buffers[b].transient for b in used)

    def _cut(
        self, sides: NDArray[np.int32], op: OpId, a_second: float | None, a_byte: float
    ) -> tuple[int, Moment]:
        """Finds the state that costs least, by a minimum cut.

        Args:
            sides: by node, BEFORE, AFTER or LEFT_OUT, or its own number if the cut decides.
            op: the op that runs next.
            a_second: an arc's capacity for each second; None if no op may be recomputed.
            a_byte: an arc's capacity for each byte.

        Returns:
            The capacity of the cut, with arcs' capacities rounded down (`_whole`); the state found.
        """
        again = _whole(self.net.seconds, a_second or 0.0)
        if a_second is None:
            again = np.where((self.net.limits == 0) & (self.net.bytes == 0), NEVER, 0)
        capacities = self.net.limits + again + _whole(self.net.bytes, a_byte)
        tails, heads = sides[self.net.tails], sides[self.net.heads]
        useful = (tails != heads) & (tails != AFTER) & (heads != BEFORE)
        useful &= (tails != LEFT_OUT) & (heads != LEFT_OUT)
        inside = np.zeros(self.net.nodes, bool)
        inside[BEFORE] = True
        flow = SimpleMaxFlow()
        flow.add_arcs_with_capacity(tails[useful], heads[useful], capacities[useful])
        # an arc of no capacity, so that source and sink exist
        flow.add_arc_with_capacity(BEFORE, AFTER, 0)
        if flow.solve(BEFORE, AFTER) != flow.OPTIMAL:
            raise AssertionError("a cut of finite size exists: nothing runs again")
        inside[np.array(flow.get_source_side_min_cut(), np.int64)] = True
        through = int(flow.optimal_flow())
        return through, self._moment(inside[sides], op)

    def _moment(self, inside: NDArray[np.bool_], op: OpId) -> Moment:
        """Returns the ops' state at a cut. `inside` tells which nodes are on the source's side."""
        ran = inside[self.net.ran]
        over = inside[self.net.over]
        again = [int(i) for i in np.flatnonzero(ran & ~over)]
        live = self.own(op)
        read = set(self.net.reads[op])
        for (b, writer), node in self.net.made.items():
            there = inside[self.net.written_by(writer, b)]
            if node not in read and there and not inside[node]:
                live += self.problem.buffers[b].transient
        return Moment(
            sum((self.costs[i] for i in again), Fraction(0)),
            live,
            frozenset(again),
            frozenset(int(i) for i in np.flatnonzero(over)),
        )


def _whole(weights: NDArray[np.float64], factor: float) -> NDArray[np.int64]:
    """Returns weights × factor, rounded down, and less 1 unless `factor` is 1; at least 0."""
    product: NDArray[np.int64] = np.floor(weights * factor).astype(np.int64)
    # a product may be rounded up in its last bit, unless the factor is 1
    return product if factor == 1 else np.maximum(product - 1, 0)
