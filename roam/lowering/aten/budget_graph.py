"""Finds the ops of a joint graph that may be recomputed, and adds a choice of copies to the graph.

joint graph ──► Problem, and the node of each op ──► ops that may be recomputed (`Step`)
                                                        │ choose (solvers/budget)
joint graph with copies ◄── passes/recompute_copies ◄── copies (`Copies`)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.node_facts import looks_at_storage
from roam.capture.roofline import OpWork
from roam.capture.usual_costs import Costs
from roam.core.machine import Bytes, Seconds
from roam.core.problem import BufferId, Kind, OpId
from roam.inspect.recomputed import Again
from roam.passes.geometry import storage_key, tensors, value
from roam.passes.pipeline import copied, run
from roam.passes.recompute_copies import NodeCopy, RecomputeCopies
from roam.passes.replays import replay_of
from roam.passes.save_bases import SaveBases
from roam.planner import Copies, Copy, Form, Step, cut_backward, usual_forms

ALWAYS_KEPT = 20_000  # a tensor of less than 1 / 20,000 of the peak is never recomputed
A_BYTE: Seconds = 1e-10  # cost of a byte read or written, if the costs of ops are unknown


@dataclass(frozen=True)
class BudgetGraph:
    """A joint graph, and the Problem of the forward and backward that it is partitioned into.

    Attributes:
        joint: the graph.
        captured: the Problem, the node of each op, and the buffers of its results.
        costs: estimates the seconds of ops that the graph does not have, such as those that make a
            dropout's result anew from its mask; None if no cost is wanted.
        peak: the peak of a plan without a budget, in bytes. Tensors that are tiny beside it are
            never recomputed.
    """

    joint: fx.GraphModule
    captured: Captured
    costs: Costs | None
    peak: Bytes

    def node(self, op: OpId, nodes: dict[str, fx.Node]) -> fx.Node | None:
        """Returns the joint graph's node of an op.

        Returns None if the op has none: if it makes the tangents (the gradients of the outputs), if
        it is a fold, or if it is an op of the backward that runs an op of the forward again, as the
        user's checkpoint() asks.

        nodes: the nodes of the joint graph, or of a copy of it, by name.
        """
        made = self.captured.nodes[op]
        found = None if made is None else nodes.get(made.name)
        late = found is not None and found.meta.get("partitioner_tag") == "is_backward"
        return found if late == (op >= self.boundary) else None

    @cached_property
    def boundary(self) -> OpId:
        """The first op of the backward; the number of ops if there is no backward."""
        ops = self.captured.problem.ops
        if ops[-1].phase > 0:
            return next(i for i, op in enumerate(ops) if op.phase > 0)
        late = (
            i
            for i, node in enumerate(self.captured.nodes)
            if node is not None and node.meta.get("partitioner_tag") == "is_backward"
        )
        return next(late, len(ops))

    @cached_property
    def step(self) -> Step:
        """The step, and the ops of the forward that may be recomputed.

        Each of these ops has a form: what a copy of the op reads, creates and costs. Some buffers
        are pinned, which means that no copy may make them anew: results of ops that the user's
        checkpoint() tags, and buffers that an op of the backward without a node in the joint graph
        uses. If no op of the step has a cost, a copy costs A_BYTE for each byte that it reads or
        makes.
        """
        problem, boundary = self.captured.problem, self.boundary
        nodes = {n.name: n for n in self.joint.graph.nodes}
        usual = usual_forms(problem, boundary)
        forms: dict[OpId, Form] = {}
        pinned: set[BufferId] = set()
        for i, op in enumerate(problem.ops):
            node = self.node(i, nodes)
            if i >= boundary:
                pinned |= set(op.touches) if node is None else set()
                continue
            if node is None or looks_at_storage(node):
                continue
            if node.meta.get("recompute") is not None:  # the user's checkpoint() decides
                pinned |= set(op.creates)
            elif (replay := replay_of(node)) is not None:
                sources = (storage_key(value(n)) for n in replay.reads)
                reads = tuple(dict.fromkeys(self.captured.buffer_of[key] for key in sources))
                made = tuple(self.captured.results[i][k] for k in replay.outputs)
                if all(b in op.creates for b in made):
                    cost = op.cost
                    if replay.ops > 1:
                        size = [sum(problem.buffers[b].size for b in of) for of in (reads, made)]
                        cost = self._pointwise(size[0] + size[1] + 2 * (replay.ops - 1) * size[1])
                    forms[i] = Form(reads, made, 0, cost)
            elif i in usual:
                forms[i] = usual[i]
        saved = {b for op in problem.ops[boundary:] for b in op.touches}
        for i in [i for i, form in forms.items() if {*form.reads} & (pinned - saved)]:
            del forms[i]  # its copy would read pinned results that the backward does not have
        if not any(op.cost for op in problem.ops):
            for i, form in forms.items():
                traffic = sum(problem.buffers[b].size for b in (*form.reads, *form.creates))
                forms[i] = replace(form, cost=A_BYTE * traffic)
        smallest = self.peak // ALWAYS_KEPT
        starts = cut_backward(problem, boundary)
        return Step(problem, boundary, forms, starts, smallest, frozenset(pinned))

    def _pointwise(self, nbytes: Bytes) -> Seconds:
        """Returns the estimated time of pointwise ops that read and write `nbytes` bytes together.

        Returns 0 if no costs are wanted.
        """
        work = {0: OpWork(self.captured.device.type, nbytes)}
        found = {} if self.costs is None else self.costs.estimated(work)
        return found[0].seconds if found else 0.0

    def edited(self, copies: Copies) -> fx.GraphModule:
        """Returns a new joint graph, with `copies` in its backward. `joint` stays as it is."""
        edited = copied(self.joint)
        nodes = {n.name: n for n in edited.graph.nodes}
        problem = self.captured.problem

        def known(op: OpId) -> fx.Node:
            found = self.node(op, nodes)
            assert found is not None, "what has no node is pinned, and has no form"
            return found

        key_of: dict[BufferId, int] = {}
        for b, i in copies.step.makers().items():
            place = self.captured.results[i].index(b)
            key_of[b] = storage_key(tensors(known(i))[place])
        made = problem.maker
        uses: dict[tuple[Hashable, int], Hashable] = {
            (reader if isinstance(reader, tuple) else known(reader), key_of[b]): (made[b], k)
            for (reader, b), k in copies.version.items()
        }
        before = _places(copies, known, edited.graph)
        added = [NodeCopy(copy, known(copy[0]), node) for copy, node in before.items()]
        run((RecomputeCopies(added, uses), SaveBases()), edited)
        return edited


def _places(
    copies: Copies, known: Callable[[OpId], fx.Node], graph: fx.Graph
) -> dict[Copy, fx.Node]:
    """Returns, by copy, the node of the joint graph's backward before which the copy is inserted.

    This node is the copy's first reader, in the order of the joint graph. (The backward that was
    partitioned from it may have another order.) If a reader is a copy itself, the node before which
    that copy is inserted counts in its place. The result lists the copies in the order of their
    nodes.

    Args:
        copies: the choice of copies.
        known: returns the node of an op in `graph`.
        graph: the joint graph.
    """
    position = {node: n for n, node in enumerate(graph.nodes)}
    made = copies.step.problem.maker
    before: dict[Copy, fx.Node] = {}
    readers: dict[Copy, list[OpId | Copy]] = defaultdict(list)
    for (reader, b), k in copies.version.items():
        i = made[b]
        assert i is not None
        readers[i, k].append(reader)
    # from the last op to the first: a copy is read by ops of the backward, and by copies of later
    # ops, which are in `before` by then
    for i, k in sorted(readers, reverse=True):
        nodes = (before[r] if isinstance(r, tuple) else known(r) for r in readers[i, k])
        before[i, k] = min(nodes, key=position.__getitem__)
    return dict(sorted(before.items(), key=lambda c: (position[c[1]], c[0])))


def by_module(copies: Copies) -> tuple[Again, ...]:
    """Returns what runs again, one entry for each module of the model, the most seconds first.

    For each module: how many of its ops run again, their seconds, and the bytes of its tensors that
    are no longer saved for the backward.
    """
    step, problem = copies.step, copies.step.problem
    ops: dict[str, list[float]] = defaultdict(list)
    for p in copies.placed:
        ops[problem.ops[p.op].where].append(step.forms[p.op].cost)
    saved: dict[str, int] = defaultdict(int)
    chosen = copies.choice
    for b in step.droppable:
        late: list[Any] = [r for r in problem.users[b] if r >= step.boundary]
        again = [c for c in chosen if b in step.forms[c[0]].reads]
        if late and all((r, b) in copies.version for r in (*late, *again)):
            saved[problem.buffers[b].where] += problem.buffers[b].transient
    modules = (
        Again(where, len(ops[where]), sum(ops[where]), saved[where]) for where in {*ops, *saved}
    )
    return tuple(sorted(modules, key=lambda m: (-m.seconds, m.module)))


def reordered(captured: Captured, order: Sequence[OpId]) -> Captured:
    """Returns `captured` with `order` as the program order of its Problem."""
    return replace(
        captured,
        problem=captured.problem.in_order(order),
        nodes=[captured.nodes[i] for i in order],
        results=[captured.results[i] for i in order],
    )


def with_room(captured: Captured, room: Bytes, left: Bytes = 0) -> Captured:
    """Returns `captured`, as if other graphs took `room` bytes between forward and backward.

    Of these they leave `left` bytes behind, which are there during the whole backward. The bytes
    are counted as scratch space of the backward's ops: `room`, if it is more than `left`, of the
    first one, which makes the tangents, the gradients of the forward's outputs.
    """
    if not room and not left:
        return captured
    ops = list(captured.problem.ops)
    first = makes_tangents(captured)
    for i, op in enumerate(ops):
        if i == first or op.phase > 0:
            beside = max(left, room) if i == first else left
            ops[i] = msgspec.structs.replace(op, scratch=op.scratch + beside)
    return replace(captured, problem=msgspec.structs.replace(captured.problem, ops=tuple(ops)))


def makes_tangents(captured: Captured) -> OpId:
    """Returns the first op of the backward, which makes the gradients of the forward's outputs.

    Raises ValueError for a graph without a backward.
    """
    return captured.nodes.index(None)


def with_outputs_dropped(captured: Captured) -> Captured:
    """Returns `captured`, as if the user dropped the forward's outputs before the backward runs.

    Many training loops do: they keep the loss, and with it the graph, but not the logits. Outputs
    that the backward reads stay until their last reader has run. Returns `captured` unchanged if it
    has no backward.
    """
    if None not in captured.nodes:
        return captured
    problem, first = captured.problem, makes_tangents(captured)
    buffers, ops = list(problem.buffers), list(problem.ops)
    outputs = [b for op in ops[:first] for b in op.creates if buffers[b].kind is Kind.OUTPUT]
    for b in outputs:
        buffers[b] = msgspec.structs.replace(buffers[b], kind=Kind.TEMPORARY)
    reads = tuple(dict.fromkeys((*ops[first].reads, *outputs)))
    ops[first] = msgspec.structs.replace(ops[first], reads=reads)
    changed = msgspec.structs.replace(problem, buffers=tuple(buffers), ops=tuple(ops))
    return replace(captured, problem=changed)
