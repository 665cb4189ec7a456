"""Keeps a graph within a byte budget: chooses what runs again, adds it, plans, and looks again.

    joint graph ── partition, capture, plan ── within the limit? done
         ^                                        │ no
         └── copies added to the joint graph ── choose (solvers/budget) on the Problem
             (passes/recompute_copies)

The choice counts live bytes in program order. The plan's order is mostly better and its layout may
be worse, so the limit of the choice is moved by the difference, and the choice made again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from torch import fx
from torch._dynamo.exc import ShortenTraceback

from roam.capture.free_memory import free_bytes
from roam.capture.fx_problem import Captured
from roam.capture.node_facts import looks_at_storage
from roam.core.budget import Budget
from roam.core.errors import BudgetError
from roam.core.machine import Bytes, Seconds
from roam.core.plan import Plan
from roam.core.problem import BufferId, Kind, OpId, Problem
from roam.core.sizes import show_size
from roam.inspect.recomputed import Again, Recomputed
from roam.passes.geometry import renew_views, storage_key, tensors, value
from roam.passes.pipeline import copied, run
from roam.passes.recompute_copies import NodeCopy, RecomputeCopies
from roam.passes.replays import replay_of
from roam.passes.save_bases import SaveBases
from roam.planner import (
    Choice,
    Copies,
    Copy,
    Form,
    Step,
    choose,
    cut_backward,
    extra_time_bound,
    least_needed,
    smallest_peak,
    usual_forms,
)

ROUNDS = 5  # choices that are planned
PROVING = 2.0  # seconds of work for a bound
SLACK = 0.02  # share of the limit that a plan may leave unused before another choice is tried
ALWAYS_KEPT = 2_000  # a tensor below this part of the peak is always kept

Trial = Callable[[fx.GraphModule], Captured]
Planner = Callable[[Problem], Plan]
Pointwise = Callable[[Bytes], Seconds]  # the time of pointwise ops with this traffic together
A_BYTE: Seconds = 1e-10  # of traffic, where nobody knows what ops cost: less is better


class CompileBudgetError(ShortenTraceback, BudgetError):
    """A BudgetError that dynamo passes to the user unwrapped."""

    def __init__(self, message: str, **figures: Any) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)
        BudgetError.__init__(self, message, **figures)


@dataclass(frozen=True)
class Fitted:
    """A joint graph whose plan is within a budget.

    Attributes:
        joint: the graph with the copies.
        limit: the most bytes that the plan may take.
        plan: the plan of it.
        recomputed: what the copies cost and save.
    """

    joint: fx.GraphModule
    limit: Bytes
    plan: Plan
    recomputed: Recomputed


def fit(
    joint: fx.GraphModule,
    name: str,
    budget: Budget,
    trial: Trial,
    plan: Planner,
    pointwise: Pointwise,
) -> Fitted:
    """Returns the graph with the copies that keep it within the budget.

    Args:
        joint: a graph of a forward and its backward.
        name: the name of the graph, for errors.
        budget: the user's.
        trial: partitions a graph and reads the Problem off its parts. May change the graph.
        plan: plans a Problem.
        pointwise: estimates ops that the graph does not have.

    Raises:
        BudgetError: no copies were found with which the plan is within the budget.
    """
    renew_views(joint.graph)
    captured = trial(copied(joint))
    problem = captured.problem
    first = plan(problem)
    free = free_bytes(captured.device)
    try:
        limit = budget.transient(problem.persistent, first.peak, free)
    except BudgetError as error:
        raise CompileBudgetError(str(error)) from None
    seconds = sum(op.cost for op in problem.ops)
    nothing = Recomputed(budget.text, limit, first.peak, seconds)
    if first.peak <= limit:
        return Fitted(joint, limit, first, nothing)
    # program order may need more by itself than the order that was planned
    graphs = (
        _Graph(joint, captured, pointwise),
        _Graph(joint, _reordered(captured, first.order), pointwise),
    )
    known = _FOUND.setdefault(problem.fingerprint, [])
    best: Best | None = None
    for n, graph in enumerate(graphs):
        if best is None:
            best = _best(graph, graph.step(first.peak), limit, trial, plan)
            if best is not None:
                known.append(_Found(n, best[1].peak, best[2].choice))
    for found in known:
        if found.peak <= limit:  # a plan for a budget is one for each larger budget
            graph = graphs[found.graph]
            copies = Copies.of(graph.step(first.peak), found.choice)
            if best is None or copies.cost < best[2].cost:
                edited = graph.edited(copies)
                planned = plan(trial(copied(edited)).problem)
                best = (edited, planned, copies) if planned.peak <= limit else best
    if best is None:
        graph = graphs[1]
        given = graphs[0].step(first.peak)
        raise _refusal(graph, given, budget, limit, name, first, trial, plan)
    edited, kept, copies = best
    modules = _by_module(copies)
    bound = 0.0
    if seconds:  # else nobody knows what ops cost
        bound = extra_time_bound(graphs[0].step(first.peak), first, limit, PROVING)
    told = Recomputed(budget.text, limit, first.peak, seconds, bound, modules)
    return Fitted(edited, limit, kept, told)


def _reordered(captured: Captured, order: Sequence[OpId]) -> Captured:
    """Returns the same, with another order as the program order of the Problem."""
    place = {i: n for n, i in enumerate(order)}
    ops = [captured.problem.ops[i] for i in order]
    ops = [msgspec.structs.replace(op, after=tuple(place[a] for a in op.after)) for op in ops]
    return replace(
        captured,
        problem=msgspec.structs.replace(captured.problem, ops=tuple(ops)),
        nodes=[captured.nodes[i] for i in order],
        results=[captured.results[i] for i in order],
    )


Best = tuple[fx.GraphModule, Plan, Copies]


@dataclass(frozen=True)
class _Found:
    """A choice that was planned in this process.

    Attributes:
        graph: 0 if it is of program order, 1 if it is of the planned order.
        peak: of its plan, bytes.
        choice: the copies.
    """

    graph: int
    peak: Bytes
    choice: Choice


_FOUND: dict[str, list[_Found]] = {}  # by fingerprint of the Problem without copies


def _best(graph: _Graph, step: Step, limit: Bytes, trial: Trial, plan: Planner) -> Best | None:
    """Returns the cheapest choice whose plan is within the limit, None if there is none."""
    best: Best | None = None
    target, relaxed = limit, False
    hint: Choice = frozenset()
    for _ in range(ROUNDS):
        chosen = choose(step, target, hint)
        hint = chosen.copies.choice
        edited = graph.edited(chosen.copies)
        found = plan(trial(copied(edited)).problem)
        fits = found.peak <= limit
        if fits and (best is None or chosen.copies.cost < best[2].cost):
            best = edited, found, chosen.copies
        if fits and found.peak >= (1 - SLACK) * limit:
            break
        if not fits and (best is not None or not chosen.fits):
            break
        moved = target + limit - found.peak
        if fits and (not chosen.fits or moved <= target or relaxed):
            break
        relaxed = fits
        target = min(moved, target - 1) if not fits else moved
    return best


@dataclass(frozen=True)
class _Graph:
    """A joint graph, and the Problem of its parts."""

    joint: fx.GraphModule
    captured: Captured
    pointwise: Pointwise

    def node(self, op: OpId, nodes: dict[str, fx.Node]) -> fx.Node | None:
        """Returns the joint graph's node of an op; None for folds and checkpoint()'s copies."""
        made = self.captured.nodes[op]
        found = None if made is None else nodes.get(made.name)
        late = found is not None and found.meta.get("partitioner_tag") == "is_backward"
        return found if late == (op >= self.boundary) else None

    @property
    def boundary(self) -> OpId:
        """The first op of the backward."""
        ops = self.captured.problem.ops
        if ops[-1].phase > 0:
            return next(i for i, op in enumerate(ops) if op.phase > 0)
        late = (
            i
            for i, node in enumerate(self.captured.nodes)
            if node is not None and node.meta.get("partitioner_tag") == "is_backward"
        )
        return next(late, len(ops))

    def step(self, peak: Bytes) -> Step:
        """Returns the step, with what may run again and how. peak: without a budget."""
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
                        cost = self.pointwise(size[0] + size[1] + 2 * (replay.ops - 1) * size[1])
                    forms[i] = Form(reads, made, 0, cost)
            elif i in usual:
                forms[i] = usual[i]
        saved = {b for op in problem.ops[boundary:] for b in op.touches}
        for i in [i for i, form in forms.items() if {*form.reads} & (pinned - saved)]:
            del forms[i]  # it would make a checkpoint()'s ops run again, too
        if not any(op.cost for op in problem.ops):
            for i, form in forms.items():
                traffic = sum(problem.buffers[b].size for b in (*form.reads, *form.creates))
                forms[i] = replace(form, cost=A_BYTE * traffic)
        smallest = peak // ALWAYS_KEPT
        starts = cut_backward(problem, boundary)
        return Step(problem, boundary, forms, starts, smallest, frozenset(pinned))

    def edited(self, copies: Copies) -> fx.GraphModule:
        """Returns a copy of the joint graph with the copies of a choice."""
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
        run((RecomputeCopies(added, uses),), edited)
        while SaveBases()(edited):  # a view of a view becomes one of what that is a view of
            renew_views(edited.graph)
        return edited


def _places(
    copies: Copies, known: Callable[[OpId], fx.Node], graph: fx.Graph
) -> dict[Copy, fx.Node]:
    """Returns the node that each copy stands in front of, the copies in the order of the graph.

    The joint graph may have another order than the backward that was partitioned from it.
    """
    position = {node: n for n, node in enumerate(graph.nodes)}
    made = copies.step.problem.maker
    before: dict[Copy, fx.Node] = {}
    readers: dict[Copy, list[OpId | Copy]] = defaultdict(list)
    for (reader, b), k in copies.version.items():
        i = made[b]
        assert i is not None
        readers[i, k].append(reader)
    for i, k in sorted(readers, reverse=True):  # whoever reads a copy is a later op, or of the end
        nodes = (before[r] if isinstance(r, tuple) else known(r) for r in readers[i, k])
        before[i, k] = min(nodes, key=position.__getitem__)
    return dict(sorted(before.items(), key=lambda c: (position[c[1]], c[0])))


def _by_module(copies: Copies) -> tuple[Again, ...]:
    """Returns what runs again and what is not kept, by module, the most expensive first."""
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


def _refusal(
    graph: _Graph,
    given: Step,
    budget: Budget,
    limit: Bytes,
    name: str,
    first: Plan,
    trial: Trial,
    plan: Planner,
) -> BudgetError:
    problem = graph.captured.problem
    low = smallest_peak(graph.step(first.peak))
    peak = min(first.peak, plan(trial(copied(graph.edited(low.copies))).problem).peak)
    smallest, persistent = peak + problem.persistent, problem.persistent
    least = least_needed(given, first, PROVING) + persistent
    text = (
        f"{name} does not fit into a budget of {budget.text} ({show_size(limit)} transient): the "
        f"smallest total found is {show_size(smallest)}, {show_size(persistent)} of it persistent, "
        f"and no recomputation goes below {show_size(least)}. {_ways_out(problem)}"
    )
    return CompileBudgetError(text, budget=limit + persistent, found=smallest, least=least)


def _ways_out(problem: Problem) -> str:
    gradients = sum(b.transient for b in problem.buffers if b.kind is Kind.GRADIENT)
    outputs = sum(b.transient for b in problem.buffers if b.kind is Kind.OUTPUT)
    ways = []
    if gradients > sum(b.transient for b in problem.buffers if b.kept) // 20:
        ways.append(
            f"folding the gradients with an optimizer of roam.optim ({show_size(gradients)} of "
            "them are kept)"
        )
    if outputs:
        ways.append(f"returning less than {show_size(outputs)} beside the loss")
    ways += ["the option split=True", "a smaller micro-batch"]
    return f"What would lower it: {'; '.join(ways)}."
