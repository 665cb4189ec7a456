"""Makes a tree of the segments of an order: the step, its phases, their segments, and so on down.

    live        ╱╲    ╱╲╱╲
    bytes     ╱    ╲╱      ╲   ╱╲        A key point is a moment with few live bytes: a local
            ╱               ╲╱    ╲      minimum. The phase, from A to D, is divided at those minima
           A        B        C     D     that no earlier minimum is below, or no later one: B, C.
              AB        BC      CD       Segment BC has a minimum of its own: two segments in it.

No set of ops between the two peaks beside a local minimum has fewer live bytes than the minimum
(`key_points.py`). The tree shows one order, and can be made of any order, such as that of a saved
plan. If the planner's own segments are given, they come right below the phases, with the name of
the search that ordered each of them. The planner's segments lie between safe key points, at which
a cut of the phase does not lose the best order.

A forward segment saves tensors for the backward. The *mirror* of a segment is the segment of a
later phase that reads the most bytes of the tensors it saves: the two form a ring of ROAM
(arXiv 2310.19295, section 4).
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

# path from the root: index of a phase, of a segment in it, of a segment in that one, ...
Node = tuple[int, ...]
STEP: Node = ()  # the root of the tree
# share of the usual limit on ops run that the search for the bound of one segment may use: a tree
# has many segments
EFFORT = 0.05


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

    The root is the step, its parts are the phases. The attributes of a node:

        ops         op ids in the order in which they run
        start       the time of its first op
        entry, exit bytes alive before its first op, and after its last op
        peak        the most bytes alive while one of its ops runs, as measured in this order
        bound       lower bound in bytes on the peak of every order of its ops, between the same two
                    key points
        solver      the name of the search that ordered it; "" if unknown
        mirror      of a segment right below a phase, or of a phase without segments: the node of a
                    later phase that reads the most bytes of the tensors that the segment saves;
                    None if it saves nothing, and for all other nodes
        like        the first node that differs from this one only in names, costs and constant
                    bytes; None if this node is the first
        constant    the bytes of buffers that are alive throughout, whatever the order of its ops

    Args:
        problem: the Problem whose order is shown.
        order: all ops, in the order in which they run.
        segments: the planner's segments of this order, if known; those of each phase in a row.
        bound: a proven lower bound on the peak of the step, in bytes.
        depth: limit on the number of edges from the root to a node; the phases are always there.
        work: limits the work and the time of the searches for bounds; no limit if left out. Once
            it is spent, the bound of a segment is the bytes that must be alive in any order.
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
    """Yields the nodes that have no parts, in the order in which they run."""
    return (node for node in sorted(graph) if not graph.out_degree(node))


def walk(graph: nx.DiGraph) -> list[OpId]:
    """Returns the order of the step: the ops of all leaves of the tree, in the order they run."""
    return [i for node in leaves(graph) for i in graph.nodes[node]["ops"]]


class _Growing:
    """A tree of segments under construction: phase after phase, then the step, then the mirrors.

    The mirror of a segment is the segment of a later phase that reads the most bytes it saves.
    """

    def __init__(self, problem: Problem, order: Sequence[OpId], depth: float, work: Work) -> None:
        self.problem, self.order, self.depth, self.work = problem, order, depth, work
        self.place = {i: t for t, i in enumerate(order)}
        self.curve = live_curve(problem, order, find_reuse(problem, order))
        self.graph = nx.DiGraph(name=problem.name)
        self.first: dict[Hashable, Node] = {}  # by `Leaf.key`, the first node that has this key

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
        """Divides a node at the key points within it, and each of its parts again, down to `depth`.

        A key point is a moment with few live bytes. `after` is the live bytes of the phase by the
        number of its ops that have run. `times` is the times of the node's ops, counted from the
        start of the phase. `solver` is the name of the search that ordered the parts.
        """
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
        """Adds a node for the ops that run at `times`, counted from the first op of the phase.

        `after` is the live bytes of the phase by the number of its ops that have run. `solver` is
        the name of the search that ordered the ops. `bound` is a known lower bound on their peak,
        in bytes; 0 if none is known.
        """
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
                # nodes of equal `Leaf.key` have the same bound, but for the constant bytes
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
        """Finds the mirror of each segment right below a phase, and of each phase without parts.

        The mirror is the node of a later phase that reads the most bytes of the tensors that the
        segment saves.
        """
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
    """The ops that run before a time, as a container: supports `op in before`."""

    def __init__(self, place: dict[OpId, Time], time: Time) -> None:
        self.place, self.time = place, time

    def __contains__(self, i: Any) -> bool:
        return self.place[i] < self.time


def key_times(after: Sequence[int], times: range) -> list[Time]:
    """Returns the key points at which a segment is divided into the segments of the next level.

    These are the local minima of the live bytes that no earlier minimum in the segment is below,
    and those that no later one is below. The segment's ends are not among them.

    Args:
        after: by time, the bytes alive before the op that runs then; the last item is of the end.
        times: the times at which the ops of the segment run.
    """
    inner = after[times.start : times.stop + 1]
    minima = [times.start + t for t in local_minima(inner)]
    return sorted({*_records(after, minima), *_records(after, minima[::-1])})


def _records(after: Sequence[int], times: Sequence[Time]) -> Iterator[Time]:
    """Yields the running minima of the live bytes, in the order of the list `times`.

    These are the times at which no more bytes are alive than at each time listed before. The list
    may run backwards in time. `after` has the live bytes by time.
    """
    least: float = inf
    for t in times:
        if after[t] <= least:
            least = after[t]
            yield t


def _bound(leaf: Leaf, order: Sequence[OpId], work: Work) -> int:
    """Returns a lower bound in bytes on the peak of every order of a leaf, found by a short search.

    A leaf is a segment as a Problem of its own. `order` is one order of it, by op ids of the step.
    """
    known, found = must_live(leaf.problem), leaf.from_step(order)
    return settle(leaf.problem, INSIDE, found, leaf.peak, known, work, EFFORT).bound
