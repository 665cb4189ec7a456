"""Moves saved tensors to a tier: chooses which and when, and adds the transfers to the joint graph.

joint graph ── partition, capture, plan ── choose (solvers/offload) on the planned order
     ^                                        │
     └── transfers added (passes/move_to_tier)┘  and planned again
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs
from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.node_facts import looks_at_storage
from roam.capture.tier_rates import bandwidth
from roam.core.check import check
from roam.core.machine import PAGE, Bytes
from roam.core.offload_to import OffloadTo
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.inspect.moved import Moved
from roam.passes.geometry import fills_its_storage, tensors, value
from roam.passes.move_to_tier import SLOTS, Move, MoveToTier, names
from roam.passes.pipeline import copied, run
from roam.passes.save_bases import SaveBases
from roam.planner import Link, Settings, Timed, Transfer, choose_moves, least_live, plan
from roam.runtime import transfer_ops as transfer_ops  # registers what the ops run
from roam.runtime.file_tier import file_tier
from roam.runtime.tier_settings import Verify

ROUNDS = 3  # orders for which transfers are chosen: a plan with transfers may have a better one
WORTH = 0.01  # share of the peak by which a round has to lower it, for another one
# of a joint graph, its Problem, the plan of that, and bytes that are low enough
Mover = Callable[[fx.GraphModule, Captured, Plan, Bytes], "MovedOut | None"]

Trial = Callable[[fx.GraphModule], Captured]


@dataclass(frozen=True)
class FileTier:
    """A folder that tensors may be moved to, and how fast.

    Attributes:
        folder: its path.
        link: the way there and back.
        smallest: bytes of the smallest tensor that may move.
        verify: what is compared of the bytes that come back.
    """

    folder: str
    link: Link
    smallest: Bytes
    verify: Verify

    def reserve(self, nbytes: Bytes) -> None:
        """Makes room in the folder's file for the tensors of one more forward.

        Raises:
            TierError: the folder cannot hold the file, or the disk is full.
        """
        tier = file_tier(self.folder)
        tier.settings = replace(tier.settings, verify=self.verify)
        tier.reserve(nbytes)

    @staticmethod
    def of(asked: OffloadTo) -> FileTier:
        """Returns the tier of a folder. Measures the rates that nobody has stated.

        Raises:
            TierError: no file there can serve.
        """
        write, read = asked.write, asked.read or asked.write
        if write is None or read is None:
            rates, pace = bandwidth(asked.folder), file_tier(asked.folder).settings
            write = write or min(rates.write, pace.write_pace)
            read = read or min(rates.read, pace.read_pace)
        return FileTier(asked.folder, Link(write, read), asked.smallest, Verify(asked.verify))


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
    if not any(_is_late(captured, i) for i in first.order):
        return None
    best: MovedOut | None = None
    order: Sequence[OpId] = first.order
    for _ in range(ROUNDS):
        found = _moved(joint, captured, order, tier, trial, settings, limit)
        before = first.peak if best is None else best.plan.peak
        if found is None or found.plan.peak >= before:
            break
        best, order = found, _without(captured.problem, found)
        if found.plan.peak <= limit or found.plan.peak > (1 - WORTH) * before:
            break
    if best is None:
        return None
    step = _timed(captured, order)
    bound = least_live(step, step.movable(tier.smallest, _roots(captured, joint)), tier.link)
    return replace(best, told=replace(best.told, without=first.peak, bound=bound))


def _moved(
    joint: fx.GraphModule,
    captured: Captured,
    order: Sequence[OpId],
    tier: FileTier,
    trial: Trial,
    settings: Settings,
    limit: Bytes,
) -> MovedOut | None:
    """Returns the graph with the transfers that are chosen for one order; None without any."""
    problem, step = captured.problem, _timed(captured, order)
    edited = copied(joint)
    roots = _roots(captured, edited)
    chosen = choose_moves(step, step.movable(tier.smallest, roots), tier.link, limit)
    places = _Places(captured, edited, step)
    moves: list[Move] = []
    taken: list[Transfer] = []
    end = 0
    for transfer in chosen.transfers:
        move = places.move(transfer, roots[transfer.moved.buffer], end)
        if move is not None:
            moves.append(move)
            taken.append(transfer)
            end += -(-transfer.moved.size // PAGE) * PAGE
    if not moves:
        return None
    run((MoveToTier(tuple(moves), tier.folder, end), SaveBases()), edited)
    moved = trial(copied(edited))
    placed = [(t, roots[t.moved.buffer]) for t in taken]
    found = _planned(moved.problem, _order(problem, order, moved, placed), settings)
    sizes = [(problem.buffers[t.moved.buffer].where, t.moved.size) for t in taken]
    told = Moved.of(tier.folder, sizes, step.seconds, tier.link.write, tier.link.read)
    return MovedOut(edited, moved, found, told, end)


def _timed(captured: Captured, order: Sequence[OpId]) -> Timed:
    boundary = next(t for t, i in enumerate(order) if _is_late(captured, i))
    return Timed.of(captured.problem, order, boundary)


def _without(problem: Problem, out: MovedOut) -> list[OpId]:
    """Returns the order of a plan without the transfers."""
    index = {op.name: i for i, op in enumerate(problem.ops)}
    names = (out.captured.problem.ops[i].name for i in out.plan.order)
    return [index[name] for name in names if name in index]


def _is_late(captured: Captured, op: OpId) -> bool:
    """Returns whether an op is of the backward, also in a step that is one graph."""
    node = captured.nodes[op]
    late = node is not None and node.meta.get("partitioner_tag") == "is_backward"
    return late or captured.problem.ops[op].phase > 0


def _roots(captured: Captured, joint: fx.GraphModule) -> dict[BufferId, fx.Node]:
    """Returns, by buffer of the forward, the node of the joint graph that is all of the buffer."""
    nodes = {n.name: n for n in joint.graph.nodes}
    found: dict[BufferId, fx.Node] = {}
    for i, op in enumerate(captured.problem.ops):
        made = captured.nodes[i]
        node = None if made is None else nodes.get(made.name)
        if op.phase > 0 or node is None or node.meta.get("recompute") is not None:
            continue
        if looks_at_storage(node) or (op.once and not op.creates):
            continue
        parts: Sequence[fx.Node | None] = [node]
        if isinstance(value(node), (tuple, list)):
            items = {u.args[1]: u for u in node.users if len(tensors(u)) == 1}
            parts = [items.get(k) for k in range(len(value(node)))]
        known = {id(value(p)): p for p in parts if p is not None}
        for b, tensor in zip(captured.results[i], tensors(node), strict=True):
            part = known.get(id(tensor))
            fits = tensor.device.type == "cpu" and fills_its_storage(tensor)
            if part is not None and fits and b in op.creates:
                found[b] = part
    return found


def _order(
    problem: Problem,
    order: Sequence[OpId],
    moved: Captured,
    taken: Sequence[tuple[Transfer, fx.Node]],
) -> list[OpId]:
    """Returns an order, with the transfers where they were chosen to be.

    Args:
        problem: the step without transfers.
        order: its ops, as they run.
        moved: the step with them.
        taken: the transfers, and the nodes of their buffers.
    """
    before: dict[int, list[str]] = defaultdict(list)
    behind: dict[int, list[str]] = defaultdict(list)
    if taken:
        behind[taken[0][0].moved.made].append(SLOTS)
    for transfer, node in taken:
        out, back = names(node)
        behind[transfer.moved.made].append(f"{out}.start")
        before[transfer.wait].append(f"{out}.wait")
        before[transfer.start].append(f"{back}.start")
        before[transfer.moved.next].append(f"{back}.wait")
    found = []
    for t, i in enumerate(order):
        found += [*before[t], problem.ops[i].name, *behind[t]]
    index = {op.name: i for i, op in enumerate(moved.problem.ops)}
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
    """Finds nodes of the joint graph for the times of a planned order."""

    captured: Captured
    joint: fx.GraphModule
    step: Timed

    def move(self, transfer: Transfer, source: fx.Node, offset: Bytes) -> Move | None:
        """Returns a transfer between ops of the graph; None if no op of it reads what comes back.

        source: the node of the buffer.
        offset: bytes from the start of the region to the slot.
        """
        moved, boundary = transfer.moved, self.step.boundary
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

    def _first(self, times: range) -> fx.Node | None:
        """Returns the node of the first of these times whose op has one."""
        return next(filter(None, map(self._node, times)), None)

    def _node(self, time: int) -> fx.Node | None:
        i: OpId = self.step.order[time]
        made = self.captured.nodes[i]
        if made is None:
            return None
        found = self._named.get(made.name)
        late = found is not None and found.meta.get("partitioner_tag") == "is_backward"
        return found if late == (time >= self.step.boundary) else None

    @property
    def _named(self) -> dict[str, fx.Node]:
        return {n.name: n for n in self.joint.graph.nodes}
