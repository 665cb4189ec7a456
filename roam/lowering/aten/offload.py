"""Moves saved tensors to a tier: chooses which and when, and adds the transfers to the joint graph.

joint graph ── partition, capture, plan ── choose (solvers/offload) on the planned order
     ^                                        │
     └── transfers added (passes/move_to_tier)┘  and planned again
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import structs
from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.node_facts import looks_at_storage
from roam.core.check import check
from roam.core.machine import Bytes
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.inspect.moved import Moved, by_module
from roam.lowering.aten.budget_graph import BudgetGraph, reordered
from roam.lowering.aten.budget_search import Trial
from roam.lowering.aten.tier_link import FileTier
from roam.passes.geometry import fills_its_storage, tensors, value
from roam.passes.move_to_tier import SLOTS, Move, MoveToTier, names
from roam.passes.pipeline import copied, run
from roam.passes.save_bases import SaveBases
from roam.planner import Settings, Timed, Transfer, choose_moves, least_live, plan
from roam.runtime import transfer_ops as transfer_ops  # registers what the ops run
from roam.runtime.tier_file import whole_pages

ROUNDS = 3  # orders for which transfers are chosen: a plan with transfers may have a better one
WORTH = 0.01  # share of the peak: a round that lowers it by less is the last one
# `move_out` of one tier: takes a joint graph, its Problem, the plan of that, and the limit in bytes
Mover = Callable[[fx.GraphModule, Captured, Plan, Bytes], "MovedOut | None"]


@dataclass(frozen=True)
class MovedOut:
    """A joint graph with transfers.

    Attributes:
        joint: the graph.
        captured: its Problem.
        plan: the plan of that.
        told: what moves, for reports.
        nbytes: of the slots of one run.
    """

    joint: fx.GraphModule
    captured: Captured
    plan: Plan
    told: Moved
    nbytes: Bytes


def move_out(
    joint: fx.GraphModule,
    captured: Captured,
    first: Plan,
    tier: FileTier,
    trial: Trial,
    settings: Settings,
    limit: Bytes = 0,
) -> MovedOut | None:
    """Returns the graph with transfers that lower its peak without a stall; None if none do.

    Args:
        joint: a graph of a forward and its backward.
        captured: its Problem.
        first: the plan of that.
        tier: where to.
        trial: partitions a graph and reads the Problem off its parts. May change the graph.
        settings: how to plan.
        limit: bytes that are low enough; 0 to go as low as it goes.
    """
    best: _Round | None = None
    graph, peak = _in_order(joint, captured, first.order), first.peak
    for _ in range(ROUNDS):
        found = _round(graph, tier, trial, settings, limit)
        if found is None or found.plan.peak >= peak:
            break
        best, before, peak = found, peak, found.plan.peak
        graph = _in_order(joint, captured, _without(captured.problem, found))
        if peak <= limit or peak > (1 - WORTH) * before:
            break
    if best is None:
        return None
    problem, step = graph.captured.problem, Timed.of(graph.captured.problem, graph.boundary)
    movable = step.movable(tier.smallest, _roots(graph, _named(joint)))
    told = Moved(
        tier.folder,
        by_module((problem.buffers[b].where, problem.buffers[b].size) for b in best.moved),
        without=first.peak,
        bound=least_live(step, movable, tier.link),
        step=step.seconds,
        write=tier.link.write,
        read=tier.link.read,
    )
    return MovedOut(best.joint, best.captured, best.plan, told, best.nbytes)


@dataclass(frozen=True)
class _Round:
    """A joint graph with the transfers that were chosen for one order.

    Attributes:
        joint: the graph.
        captured: its Problem.
        plan: the plan of that.
        moved: the buffers that move.
        nbytes: of their slots.
    """

    joint: fx.GraphModule
    captured: Captured
    plan: Plan
    moved: Sequence[BufferId]
    nbytes: Bytes


def _round(
    graph: BudgetGraph, tier: FileTier, trial: Trial, settings: Settings, limit: Bytes
) -> _Round | None:
    """Returns the graph with the transfers that are chosen for its order; None without any."""
    problem, step = graph.captured.problem, Timed.of(graph.captured.problem, graph.boundary)
    edited = copied(graph.joint)
    nodes = _named(edited)
    roots = _roots(graph, nodes)
    chosen = choose_moves(step, step.movable(tier.smallest, roots), tier.link, limit)
    places = _Places(graph, nodes)
    moves: list[Move] = []
    taken: list[tuple[Transfer, fx.Node]] = []
    end = 0
    for transfer in chosen:
        root = roots[transfer.moved.buffer]
        move = places.move(transfer, root, end)
        if move is not None:
            moves.append(move)
            taken.append((transfer, root))
            end += whole_pages(transfer.moved.size)
    if not moves:
        return None
    run((MoveToTier(tuple(moves), tier.folder, end), SaveBases()), edited)
    moved = trial(copied(edited))
    found = _planned(moved.problem, _order(problem, moved.problem, taken), settings)
    return _Round(edited, moved, found, [t.moved.buffer for t, _ in taken], end)


def _in_order(joint: fx.GraphModule, captured: Captured, order: Sequence[OpId]) -> BudgetGraph:
    """Returns the graph, and its Problem with another order of its ops as the program order."""
    return BudgetGraph(joint, reordered(captured, order), None, 0)


def _named(joint: fx.GraphModule) -> dict[str, fx.Node]:
    return {n.name: n for n in joint.graph.nodes}


def _without(problem: Problem, found: _Round) -> list[OpId]:
    """Returns the order of a plan without the transfers, for the Problem without them."""
    index = {op.name: i for i, op in enumerate(problem.ops)}
    names = (found.captured.problem.ops[i].name for i in found.plan.order)
    return [index[name] for name in names if name in index]


def _roots(graph: BudgetGraph, nodes: dict[str, fx.Node]) -> dict[BufferId, fx.Node]:
    """Returns, by buffer of the forward, the node that is all of the buffer.

    nodes: those of the joint graph, or of a copy of it, by name.
    """
    found: dict[BufferId, fx.Node] = {}
    for i, op in enumerate(graph.captured.problem.ops[: graph.boundary]):
        node = graph.node(i, nodes)
        if node is None or node.meta.get("recompute") is not None or looks_at_storage(node):
            continue
        parts: Sequence[fx.Node | None] = [node]
        if isinstance(value(node), (tuple, list)):
            items = {u.args[1]: u for u in node.users if len(tensors(u)) == 1}
            parts = [items.get(k) for k in range(len(value(node)))]
        known = {id(value(p)): p for p in parts if p is not None}
        for b, tensor in zip(graph.captured.results[i], tensors(node), strict=True):
            part = known.get(id(tensor))
            fits = tensor.device.type == "cpu" and fills_its_storage(tensor)
            if part is not None and fits and b in op.creates:
                found[b] = part
    return found


def _order(
    problem: Problem, moved: Problem, taken: Sequence[tuple[Transfer, fx.Node]]
) -> list[OpId]:
    """Returns the program order of a step, with the transfers where they were chosen to be.

    Args:
        problem: the step without transfers.
        moved: the step with them, whose ops the order is of.
        taken: the transfers, and the nodes of their buffers; at least one.
    """
    before: dict[OpId, list[str]] = defaultdict(list)
    behind: dict[OpId, list[str]] = defaultdict(list)
    behind[taken[0][0].moved.made].append(SLOTS)
    for transfer, node in taken:
        out, back = names(node)
        behind[transfer.moved.made].append(f"{out}.start")
        before[transfer.wait].append(f"{out}.wait")
        before[transfer.start].append(f"{back}.start")
        before[transfer.moved.next].append(f"{back}.wait")
    found = [n for i, op in enumerate(problem.ops) for n in (*before[i], op.name, *behind[i])]
    index = {op.name: i for i, op in enumerate(moved.ops)}
    return [index[name] for name in found]


def _planned(problem: Problem, order: Sequence[OpId], settings: Settings) -> Plan:
    """Returns a plan of a problem that is not above the given order's."""
    found = plan(problem.in_order(order), settings)
    again = tuple(order[i] for i in found.order)
    found = structs.replace(found, fingerprint=problem.fingerprint, order=again)
    check(problem, found)
    return found


@dataclass(frozen=True)
class _Places:
    """Finds the nodes of a joint graph between which transfers run.

    Attributes:
        graph: the graph, with its Problem in the order for which the transfers were chosen.
        nodes: those of a copy of the joint graph, by name.
    """

    graph: BudgetGraph
    nodes: dict[str, fx.Node]

    def move(self, transfer: Transfer, source: fx.Node, offset: Bytes) -> Move | None:
        """Returns a transfer between ops of the graph; None if no op of it reads what comes back.

        source: the node of the buffer.
        offset: bytes from the start of the region to the slot.
        """
        moved, boundary = transfer.moved, self.graph.boundary
        before = self._first(range(transfer.start, moved.next + 1))
        if before is None:
            return None
        return Move(
            source,
            offset,
            self._first(range(moved.made + 1, min(transfer.wait, boundary))),
            self._first(range(transfer.wait - 1, moved.made, -1)),
            before,
            self._first(range(moved.next - 1, max(transfer.start, boundary + 1) - 1, -1)),
        )

    def _first(self, ops: range) -> fx.Node | None:
        """Returns the node of the first of these ops that has one."""
        return next((n for i in ops if (n := self.graph.node(i, self.nodes)) is not None), None)
