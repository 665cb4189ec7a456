"""Chooses which saved tensors move to a tier, and when, and adds the transfers to the joint graph.

joint graph ──► partition, capture, plan ──► choose transfers for the planned order
     ^                                          │               (solvers/offload)
     └── add them (passes/move_to_tier) ◄───────┘

Saved tensors are what the forward keeps for the backward. A transfer writes a saved tensor to the
tier (a folder) once the tensor is made, frees it on the device after the write and its last use in
the forward, and reads it back before the backward uses it. If tensors move, another order of the
ops may be better. So a few rounds are tried, each for the order that the round before planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from msgspec import structs
from torch import fx

from roam.capture.fx_problem import Captured
from roam.core.check import check
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.inspect.moved import Moved, by_module
from roam.lowering.aten.budget_graph import BudgetGraph, reordered
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.footprint import Unlimited
from roam.lowering.aten.step_watch import Expected
from roam.lowering.aten.tier_link import FileTier
from roam.lowering.aten.transfer_places import Places, named, order_with_transfers, roots_of
from roam.passes.move_to_tier import Move, MoveToTier
from roam.passes.pipeline import copied, run
from roam.passes.save_bases import SaveBases
from roam.planner import (
    Link,
    Settings,
    Transfer,
    choose_moves,
    least_live,
    plan,
    stall_with,
)
from roam.runtime import transfer_ops as transfer_ops  # registers the transfer ops
from roam.runtime.tier_file import whole_pages

ROUNDS = 3  # limit on the rounds, each of which chooses transfers for the order planned before it
AT_ONCE = Link(1e18, 1e18)  # a link on which every transfer takes next to no time
ROUNDING: Seconds = 1e-9  # stalls that differ by less are equal, but for rounding errors
WORTH = 0.01  # part of the peak: if a round lowers the peak by less, it is the last round


@dataclass(frozen=True)
class MovedOut:
    """A joint graph with transfers.

    Attributes:
        tier: the tier that tensors move to.
        joint: the graph.
        captured: the Problem of `joint`.
        plan: the plan of `captured`.
        told: which tensors move, and the stalls, for reports.
        nbytes: bytes of the tier that the tensors of one forward need.
        expected: the seconds of a step as planned.
        bare: seconds for which ops would wait without these transfers, namely for the loads of an
            optimizer's states.
    """

    tier: FileTier
    joint: fx.GraphModule
    captured: Captured
    plan: Plan
    told: Moved
    nbytes: Bytes
    expected: Expected
    bare: Seconds

    @property
    def stalled(self) -> Seconds:
        """Seconds for which ops wait because of these transfers.

        They are scaled to the costs of ops: divided by `slower`, the measured seconds of ops over
        their costs.
        """
        return self.told.stall / self.tier.slower

    @property
    def left(self) -> Bytes:
        """Bytes on the device that the forward leaves alive for the backward."""
        return Unlimited.of(self.captured.problem, self.plan).left

    def timed(self) -> MovedOut:
        """Returns a copy of this object with the seconds of ops and stalls that its plan has.

        A simulation of the plan finds them. They go to `expected` and `told`.
        """
        line = self.tier.simulated(self.captured.problem, self.plan.order)
        costs = sum(op.cost for op in self.captured.problem.ops)
        ops, stall = line.seconds - line.stall, line.stall
        expected = replace(self.expected, costs=costs, ops=ops, stall=stall)
        told = replace(self.told, stall=max(0.0, stall - self.bare))
        return replace(self, told=told, expected=expected)


@dataclass(frozen=True)
class _Round:
    """A joint graph with the transfers that one round chose, for one order.

    Attributes:
        joint: the graph.
        captured: the Problem of `joint`.
        plan: the plan of `captured`.
        moved: the buffers that move.
        nbytes: bytes in the tier that these buffers need.
    """

    joint: fx.GraphModule
    captured: Captured
    plan: Plan
    moved: Sequence[BufferId]
    nbytes: Bytes


@dataclass(frozen=True)
class Mover:
    """Chooses transfers of saved tensors, and adds them to joint graphs.

    Attributes:
        tier: the tier that tensors move to.
        trial: partitions a graph and reads the Problem off the parts. May change the graph.
        settings: how to plan.
    """

    tier: FileTier
    trial: Trial
    settings: Settings

    def moved(
        self,
        joint: fx.GraphModule,
        captured: Captured,
        first: Plan,
        limit: Bytes = 0,
        speed: float = 1.0,
        too_long: Seconds = inf,
    ) -> MovedOut | None:
        """Returns the graph with transfers that lower its peak; None if none are found.

        At most ROUNDS rounds choose transfers, each for the order that the round before planned.
        Returns the result of the round with the lowest peak.

        Args:
            joint: a graph of a forward and its backward.
            captured: the Problem of `joint`.
            first: the plan of `captured`.
            limit: a peak, in bytes, that need not be lowered further; 0 for the lowest possible.
            speed: transfers are chosen as if the tier were faster by this factor. Above 1, more
                tensors can move, and ops wait for transfers.
            too_long: transfers for which ops would wait for this many seconds or more, by the costs
                of ops, are not made.
        """
        tier = self.tier
        link = tier.beside_loads(captured.problem).link
        best: _Round | None = None
        graph, peak = _in_order(joint, captured, first.order), first.peak
        for _ in range(ROUNDS):
            found = self._round(graph, link, limit, speed, too_long)
            if found is None or found.plan.peak >= peak:
                break
            best, before, peak = found, peak, found.plan.peak
            graph = _in_order(joint, captured, _without(captured.problem, found))
            if peak <= limit or peak > (1 - WORTH) * before:
                break
        if best is None:
            return None
        problem = graph.captured.problem
        step = tier.timed(problem, graph.boundary)
        movable = step.movable(tier.smallest, roots_of(graph, named(joint)))
        keeps = (1 - WORTH) * best.plan.peak > least_live(step, movable, AT_ONCE)
        told = Moved(
            tier.folder,
            by_module((problem.buffers[b].where, problem.buffers[b].size) for b in best.moved),
            without=first.peak,
            bound=least_live(step, movable, tier.link),
            step=step.seconds,
            write=tier.link.write,
            read=tier.link.read,
        )
        graphs = best.joint, best.captured, best.plan
        expected = Expected(0.0, 0.0, 0.0, keeps, tier.caution)
        bare = tier.simulated(captured.problem, first.order).stall
        return MovedOut(tier, *graphs, told, best.nbytes, expected, bare).timed()

    def _round(
        self, graph: BudgetGraph, link: Link, limit: Bytes, speed: float, too_long: Seconds
    ) -> _Round | None:
        """Returns the graph with the transfers that are chosen for its order, and its new plan.

        Returns None if no tensor can move, or if ops would wait for `too_long` seconds or more.

        Args:
            graph: the graph, in the order for which transfers are chosen.
            link: the rates of the tier that are left to saved tensors.
            limit: a peak, in bytes, that need not be lowered further; 0 for the lowest possible.
            speed: transfers are chosen as if the tier were faster by this factor.
            too_long: the limit on this wait, in seconds by the costs of ops.
        """
        tier, problem = self.tier, graph.captured.problem
        step = tier.timed(problem, graph.boundary)
        roots = roots_of(graph, named(graph.joint))
        movable = step.movable(tier.smallest, roots)
        chosen = choose_moves(step, movable, link, limit, tier.caution / speed)
        if stall_with(step, chosen, tier.link) >= too_long * tier.slower:
            return None
        edited = copied(graph.joint)
        nodes = named(edited)
        places = Places(graph, nodes)
        moves: list[Move] = []
        taken: list[tuple[Transfer, fx.Node]] = []
        end = 0
        for transfer in chosen:
            root = nodes[roots[transfer.moved.buffer].name]
            move = places.move(transfer, root, end)
            if move is not None:
                moves.append(move)
                taken.append((transfer, root))
                end += whole_pages(transfer.moved.size)
        if not moves:
            return None
        run((MoveToTier(tuple(moves), tier.folder, end), SaveBases()), edited)
        moved = self.trial(copied(edited))
        order = order_with_transfers(problem, moved.problem, taken)
        found = self.plan_of(moved.problem, order)
        return _Round(edited, moved, found, [t.moved.buffer for t, _ in taken], end)

    def plan_of(self, problem: Problem, order: Sequence[OpId] | None = None) -> Plan:
        """Returns a plan with a peak no higher, and stalls no longer, than the given order's.

        The order search knows nothing of seconds. If ops would wait longer for transfers in the
        order that it finds, because a transfer is too close to the op that needs it, the plan keeps
        the given order. The order in the plan lists ops by their indices in `problem`.

        Args:
            problem: a Problem with transfers.
            order: the given order; None for program order.
        """
        given = range(len(problem.ops)) if order is None else order
        careful = self.tier.careful()

        def stall(order: Sequence[OpId]) -> Seconds:
            return careful.simulated(problem, order).stall

        found = plan(problem.in_order(given), self.settings)
        if stall([given[i] for i in found.order]) > stall(given) + ROUNDING:
            fixed = replace(self.settings, fixed=len(problem.phases))
            found = plan(problem.in_order(given), fixed)
        again = tuple(given[i] for i in found.order)
        found = structs.replace(found, fingerprint=problem.fingerprint, order=again)
        check(problem, found)
        return found


def _in_order(joint: fx.GraphModule, captured: Captured, order: Sequence[OpId]) -> BudgetGraph:
    """Returns the graph for choosing transfers, with `order` as program order of its Problem."""
    return BudgetGraph(joint, reordered(captured, order), None, 0)


def _without(problem: Problem, found: _Round) -> list[OpId]:
    """Returns the order of a round's plan, without the transfers, as an order of `problem`.

    problem: the step without transfers. Its ops are found by their names.
    """
    index = {op.name: i for i, op in enumerate(problem.ops)}
    names = (found.captured.problem.ops[i].name for i in found.plan.order)
    return [index[name] for name in names if name in index]
