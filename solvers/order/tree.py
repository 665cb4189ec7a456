"""The tree of segments of an order: step, phases, segments between key points, segments in them.

    live        ╱╲    ╱╲╱╲
    bytes     ╱    ╲╱      ╲   ╱╲        a key point is a moment with few live bytes: a local
            ╱               ╲╱    ╲      minimum. The segments of the phase lie between those
           A        B            C  D    minima below which the bytes do not fall before, or not
              AB      BC        CD       after. BC has a minimum of its own: two segments within.

A local minimum of any order has the fewest bytes of all sets of ops between the peaks beside it
(`key_points.py`). The tree is a picture of one order, and can be made of any: of a plan that was
saved, too. What the planner knows beside the order, the search that found each segment, is added if
it is given; its own segments, between safe key points, then come right below the phases.

A forward segment saves tensors for the backward. Its mirror is the segment of a later phase that
reads the most bytes of them: the two form a ring of ROAM (arXiv 2310.19295, section 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import networkx as nx

from roam.core.bounds import must_live
from roam.core.lifetime import find_reuse, live_curve
from roam.core.problem import OpId, Problem
from roam.solvers.order.bisection import settle
from roam.solvers.order.key_points import Time, curve_of, local_minima
from roam.solvers.order.leaf import INSIDE, Leaf, cut_out
from roam.solvers.order.segment import Segment
from roam.solvers.work import Work

Node = tuple[int, ...]  # the way from the root: phase, segment, segment within, ...
STEP: Node = ()  # the root
EFFORT = 0.05  # share of the usual ops run for a question about a segment: there are many segments


def tree(
    problem: Problem,
    order: Sequence[OpId],
    segments: Sequence[Segment] = (),
    *,
    bound: int = 0,
    depth: float = inf,
    work: Work | None = None,
) -> nx.DiGraph:
    """Returns the tree of segments of an order, with an edge from each node to each of its parts.

    The attributes of a node:

        ops         op ids in the order in which they run
        start       the time of its first op
        entry, exit bytes alive before its first op, and after its last
        peak        the most bytes alive while one of its ops runs
        bound       bytes that no order of its ops takes less than, between the same two key points
        solver      the search that ordered it; "" if unknown
        mirror      of a segment: the node of a later phase that reads most of what it saves; None
                    if it saves nothing, and for segments within segments
        like        the first segment that differs in names and constant bytes only; None if this
                    is the first

    Args:
        problem: the Problem that the order is of.
        order: all ops.
        segments: the planner's segments of this order, if known; those of each phase in a row.
        bound: a proven lower bound on the peak of the step, in bytes.
        depth: the greatest number of edges from the root to a node.
        work: limits the searches for bounds. A segment that none is left for has the bound of the
            bytes that must be alive. Unlimited if left out.
    """
    growing = _Growing(problem, order, depth, work or Work())
    parts: dict[int, list[Segment]] = {}
    for segment in segments:
        parts.setdefault(segment.phase, []).append(segment)
    for phase in range(len(problem.phases)):
        growing.add_phase(phase, parts.get(phase, []))
    growing.add_step(bound)
    growing.pair()
    return growing.graph


def leaves(graph: nx.DiGraph) -> Iterator[Node]:
    """Yields the nodes without parts, in the order in which they run."""
    return (node for node in sorted(graph) if not graph.out_degree(node))


def walk(graph: nx.DiGraph) -> list[OpId]:
    """Returns the order of the step: that of each leaf, joined."""
    return [i for node in leaves(graph) for i in graph.nodes[node]["ops"]]


class _Growing:
    """A tree that grows phase by phase."""

    def __init__(self, problem: Problem, order: Sequence[OpId], depth: float, work: Work) -> None:
        self.problem, self.order, self.depth, self.work = problem, order, depth, work
        self.place = {i: t for t, i in enumerate(order)}
        self.curve = live_curve(problem, order, find_reuse(problem, order))
        self.graph = nx.DiGraph(name=problem.name)
        self.first: dict[Hashable, Node] = {}  # by key of a leaf, the first segment that has it

    def add_phase(self, phase: int, segments: Sequence[Segment]) -> None:
        times = self.problem.spans[phase]
        ops = self.order[times.start : times.stop]
        after = curve_of(self.problem, phase, ops).after
        solvers = dict.fromkeys(segment.solver for segment in segments)
        node = (phase,)
        self.add(node, phase, after, range(len(ops)), " + ".join(solvers))
        ends = [0]
        for segment in segments:
            ends.append(ends[-1] + len(segment.ops))
        if len(segments) < 2:
            self.add_parts(node, phase, after, range(len(ops)), "".join(solvers))
        elif self.depth > len(node):
            for k, (segment, (a, b)) in enumerate(zip(segments, pairwise(ends), strict=True)):
                self.add((*node, k), phase, after, range(a, b), segment.solver, segment.bound)
                self.add_parts((*node, k), phase, after, range(a, b), segment.solver)

    def add_parts(
        self, node: Node, phase: int, after: list[int], times: range, solver: str
    ) -> None:
        """Adds the segments within a node, and those within them."""
        points = key_times(after, times)
        if not points or len(node) >= self.depth:
            return
        for k, (a, b) in enumerate(pairwise((times.start, *points, times.stop))):
            self.add((*node, k), phase, after, range(a, b), solver)
            self.add_parts((*node, k), phase, after, range(a, b), solver)

    def add(
        self,
        node: Node,
        phase: int,
        after: list[int],
        times: range,
        solver: str,
        bound: int = 0,
    ) -> None:
        """Adds a node for the ops of a phase that run at `times`, counted from its first op."""
        start = self.problem.spans[phase].start
        whole = range(start + times.start, start + times.stop)
        ops = tuple(self.order[t] for t in whole)
        peak = max((self.curve[t] for t in whole), default=0)
        entry, end = after[times.start], after[times.stop]
        like = None
        if ops:
            ran = _Before(self.place, whole.start)
            leaf = cut_out(self.problem, phase, ops, ran, live=entry)
            like = self.first.setdefault(leaf.key, node)
            if like == node:
                bound, like = max(bound, _bound(leaf, ops, self.work)), None
            else:
                # the same bytes above the constant: that of the first one is known
                first = self.graph.nodes[like]
                bound = max(bound, first["bound"] + leaf.constant - first["constant"])
            constant = leaf.constant
        else:
            constant = entry
        self.graph.add_node(
            node,
            ops=ops,
            start=whole.start,
            entry=entry,
            exit=end,
            peak=peak,
            bound=bound,
            solver=solver,
            mirror=None,
            like=like,
            constant=constant,
        )
        if node[:-1] != STEP:
            self.graph.add_edge(node[:-1], node)

    def add_step(self, bound: int) -> None:
        nodes = self.graph.nodes
        phases = [(phase,) for phase in range(len(self.problem.phases))]
        solvers = [nodes[p]["solver"] for p in phases]
        kept = sum(b.transient for b in self.problem.buffers if b.kept)
        self.graph.add_node(
            STEP,
            ops=tuple(self.order),
            start=0,
            entry=0,
            exit=kept,
            peak=max((nodes[p]["peak"] for p in phases), default=0),
            bound=max([bound, *(nodes[p]["bound"] for p in phases)]),
            solver=" / ".join(solvers) if all(solvers) else "",
            mirror=None,
            like=None,
            constant=0,
        )
        self.graph.add_edges_from((STEP, p) for p in phases)

    def pair(self) -> None:
        """Finds the mirror of each segment right below a phase, and of each phase without parts."""
        of_op: dict[OpId, Node] = {}
        for phase in self.graph.successors(STEP):
            for node in list(self.graph.successors(phase)) or [phase]:
                of_op.update(dict.fromkeys(self.graph.nodes[node]["ops"], node))
        read: dict[Node, Counter[Node]] = {}
        for b, made_by in enumerate(self.problem.maker):
            if made_by is None:
                continue
            maker = of_op[made_by]
            readers = {of_op[u] for u in self.problem.users[b]}
            for reader in sorted(r for r in readers if r[0] > maker[0]):
                saved = self.problem.buffers[b].transient
                read.setdefault(maker, Counter())[reader] += saved
        for maker, sizes in read.items():
            [(reader, size)] = sizes.most_common(1)
            self.graph.nodes[maker]["mirror"] = reader if size else None


class _Before:
    """The ops that run before a time, as a container."""

    def __init__(self, place: dict[OpId, Time], time: Time) -> None:
        self.place, self.time = place, time

    def __contains__(self, i: Any) -> bool:
        return self.place[i] < self.time


def key_times(after: Sequence[int], times: range) -> list[Time]:
    """Returns the key points between the segments of one level, inside of `times`.

    Of the local minima, those that no earlier minimum is below, and those that no later one is
    below.

    Args:
        after: by time, the bytes alive before the op that runs then, and at the end.
        times: the ops of the segment.
    """
    inner = after[times.start : times.stop + 1]
    minima = [times.start + t for t in local_minima(inner)]
    return sorted({*_records(after, minima), *_records(after, minima[::-1])})


def _records(after: Sequence[int], times: Sequence[Time]) -> Iterator[Time]:
    """Yields the times at which no more bytes are alive than at all times listed before."""
    least: float = inf
    for t in times:
        if after[t] <= least:
            least = after[t]
            yield t


def _bound(leaf: Leaf, order: Sequence[OpId], work: Work) -> int:
    """Returns bytes that every order of a leaf takes at least, by a short search.

    `order` is one of the leaf, by the ids of the step.
    """
    known, found = must_live(leaf.problem), leaf.from_step(order)
    return settle(leaf.problem, INSIDE, found, leaf.peak, known, work, EFFORT).bound
