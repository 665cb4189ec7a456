"""Finds the nodes of a joint graph whose tensors move to a tier, and where each transfer runs.

    write starts ── write is waited for ── ... ── read starts ── read is waited for ── next use

Each of these four moments is given by a node of the joint graph that runs before or after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from roam.capture.node_facts import looks_at_storage
from roam.core.machine import Bytes
from roam.core.problem import BufferId, OpId, Problem
from roam.lowering.aten.budget_graph import BudgetGraph
from roam.passes.geometry import fills_its_storage, tensors, value
from roam.passes.move_to_tier import SLOTS, Move, names
from roam.planner import Transfer


def named(joint: fx.GraphModule) -> dict[str, fx.Node]:
    return {n.name: n for n in joint.graph.nodes}


def roots_of(graph: BudgetGraph, nodes: dict[str, fx.Node]) -> dict[BufferId, fx.Node]:
    """Returns, for the buffers that may move, the node whose tensor fills the whole buffer.

    These are buffers of the forward. Leaves out buffers that no single tensor fills, tensors on
    other devices than the CPU, results of ops that may read the storage around their inputs, and
    results of ops that the user's checkpoint() tags.

    nodes: the nodes of the joint graph, or of a copy of it, by name.
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


def order_with_transfers(
    problem: Problem, moved: Problem, taken: Sequence[tuple[Transfer, fx.Node]]
) -> list[OpId]:
    """Returns an order of a step with transfers: program order, with each transfer where planned.

    A write starts right after the op that makes the tensor. The wait for it, the start of the read
    and the wait for the read are where the `Transfer` has them.

    Args:
        problem: the step without transfers.
        moved: the step with transfers; the order returned is one of its ops.
        taken: the transfers, with the nodes of their buffers; at least one. The op that opens the
            region of the file runs right after the buffer of the first of them is made.
    """
    before: dict[OpId, list[str]] = defaultdict(list)
    behind: dict[OpId, list[str]] = defaultdict(list)
    index = {op.name: i for i, op in enumerate(moved.ops)}
    starts = [span.start for span in problem.spans]
    behind[taken[0][0].moved.made].append(SLOTS)
    for transfer, node in sorted(taken, key=lambda t: t[0].moved.next):  # first needed, first read
        before[transfer.start].append(f"{names(node)[1]}.start")
    for transfer, node in taken:
        out, back = names(node)
        behind[transfer.moved.made].append(f"{out}.start")
        # the wait for the write is an op of the forward if no node of the backward must run before
        # it: then it must stay in the forward
        phase = moved.ops[index[f"{out}.wait"]].phase
        last = starts[phase + 1] if phase + 1 < len(starts) else transfer.wait
        before[min(transfer.wait, last)].append(f"{out}.wait")
        before[transfer.moved.next].append(f"{back}.wait")
    found = [n for i, op in enumerate(problem.ops) for n in (*before[i], op.name, *behind[i])]
    return [index[name] for name in found]


@dataclass(frozen=True)
class Places:
    """Finds the nodes of a joint graph between which transfers run.

    Attributes:
        graph: the graph, with its Problem in the order for which the transfers were chosen.
        nodes: the nodes of a copy of the joint graph, by name.
    """

    graph: BudgetGraph
    nodes: dict[str, fx.Node]

    def move(self, transfer: Transfer, source: fx.Node, offset: Bytes) -> Move | None:
        """Returns the transfer as a move between nodes of the joint graph.

        Returns None if no op from the start of the read to the next use has a node: then nothing
        says when the read has to start.

        Args:
            transfer: the transfer, whose four moments are ops of the graph's Problem.
            source: the node of the buffer.
            offset: where the buffer's bytes go in the tier, in bytes from the start of the region
                of the file that holds one forward's tensors.
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
        """Returns the node of the first of these ops that has one; None if none has."""
        return next((n for i in ops if (n := self.graph.node(i, self.nodes)) is not None), None)
