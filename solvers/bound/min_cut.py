"""A lower bound on the peak of every order: the fewest bytes alive when an op runs (minimum cut).

When an op begins, some set of other ops has run. The set contains the predecessors of each of its
ops, all ancestors of the op and none of its descendants. The live buffers are those that an op in
the set made and an op outside the set reads. One of all possible sets has the fewest live bytes,
and no order runs the op with fewer:

        ran before            │  runs later
    ancestors ── a ─ 12 MiB ──│── b ── descendants     Either a's result is alive or one that was
                              │                        made of it: every cut pays for one of them.
                           the op

A set of ops and the buffers across its border are a cut of a network, so the cheapest set is found
by maximum flow (Picard 1976 on closures). The bound is stronger than that of `roam.core.bounds`,
which counts only buffers that must be alive in any case. If one of two buffers must be alive, but
either one may be, the bound of `roam.core.bounds` counts neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from roam.core.lifetime import can_take
from roam.core.problem import BufferId, OpId, Problem
from roam.core.proof import Bound, Cut, Proof, Search
from roam.solvers.answer import Answer, minimized
from roam.solvers.work import Units, Work

BEFORE, AFTER = 0, 1  # nodes of the network: source (ops that have run), sink (ops that run later)
A_CUT, AN_ARC = 100_000, 60  # units of work: of one minimum cut, plus per arc in it; measured


class Cuts:
    """Finds the fewest bytes that are alive when an op of a Problem runs, for any of its ops.

    Keeps the flow network of each phase.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.unbounded = 1 + sum(b.size for b in problem.buffers)
        self.place = {i: k for ops in problem.phases for k, i in enumerate(ops)}
        self.networks: dict[int, Network] = {}

    def bound(self, op: OpId) -> int:
        """Returns the fewest transient bytes that are alive while an op runs, in any order."""
        network = self.network(self.problem.ops[op].phase)
        return network.cheapest(self.place[op]) + own_bytes(self.problem, op)

    def cost(self, op: OpId) -> Units:
        """Returns the units of work that it takes to compute the bound of an op."""
        return A_CUT + AN_ARC * len(self.network(self.problem.ops[op].phase).tails)

    def network(self, phase: int) -> Network:
        if phase not in self.networks:
            self.networks[phase] = Network(self.problem, phase, self.unbounded)
        return self.networks[phase]


class Least(NamedTuple):
    """A set of ops of a phase after which the fewest bytes are alive.

    Attributes:
        live: the transient bytes alive when the set has run.
        ran: the places of its ops. Of several such sets, the smallest.
    """

    live: int
    ran: set[int]


class Network:
    """The ops of a phase, as nodes of a flow network, and its buffers, as arcs between them.

    Node k + 2 is the op at place k of the phase's program order.
    """

    def __init__(self, problem: Problem, phase: int, unbounded: int) -> None:
        self.ops = problem.phases[phase]
        self.place = {i: k for k, i in enumerate(self.ops)}
        self.unbounded = unbounded
        self.before = [self._inside(problem.predecessors[i]) for i in self.ops]
        self.after = [self._inside(problem.successors[i]) for i in self.ops]
        tails: list[int] = []
        heads: list[int] = []
        capacities: list[int] = []

        def arc(tail: int, head: int, capacity: int) -> None:
            tails.append(tail)
            heads.append(head)
            capacities.append(capacity)

        for k, before in enumerate(self.before):
            for p in before:
                arc(k + 2, p + 2, unbounded)  # if an op has run, so have its predecessors
        nodes = len(self.ops) + 2
        for b, buffer in enumerate(problem.buffers):
            if not buffer.transient:
                continue
            maker = self._maker(problem, b, phase)
            readers = self._readers(problem, b, phase)
            if maker is None or not readers or maker == AFTER:
                continue
            if len(readers) == 1:
                arc(maker, readers[0], buffer.transient)
            else:  # one more node, so that a cut counts the buffer once however many ops read it
                arc(maker, nodes, buffer.transient)
                for reader in readers:
                    arc(nodes, reader, unbounded)
                nodes += 1
        self.tails, self.heads = np.array(tails, np.int32), np.array(heads, np.int32)
        self.capacities = np.array(capacities, np.int64)
        self.nodes = nodes

    def _inside(self, ops: Sequence[OpId]) -> list[int]:
        return [self.place[i] for i in ops if i in self.place]

    def _maker(self, problem: Problem, b: BufferId, phase: int) -> int | None:
        made_by = problem.maker[b]
        if made_by is None:
            return None
        if made_by in self.place:
            return self.place[made_by] + 2
        return BEFORE if problem.ops[made_by].phase < phase else AFTER

    def _readers(self, problem: Problem, b: BufferId, phase: int) -> list[int]:
        users = problem.users[b]
        later = problem.buffers[b].kept or any(problem.ops[u].phase > phase for u in users)
        return [AFTER] if later else [self.place[u] + 2 for u in users if u in self.place]

    def cheapest(self, k: int) -> int:
        """Returns the fewest bytes that are alive just before the op at place k, in any order."""
        live, _, _ = self._cut(self.ancestors(k), [k, *self.descendants(k)])
        return live

    def least(self, ran: Iterable[int], later: Iterable[int]) -> Least:
        """Finds the set of ops after which the fewest bytes are alive.

        Args:
            ran: places of ops that the set contains, with all ops of the phase they wait for.
            later: places of ops that it does not contain, with all ops that wait for them.
        """
        live, side, flow = self._cut(ran, later)
        inside = set(np.flatnonzero(side[2 : len(self.ops) + 2] == BEFORE).tolist())
        if flow is not None:
            reached = (int(node) - 2 for node in flow.get_source_side_min_cut())
            inside.update(k for k in reached if 0 <= k < len(self.ops))
        return Least(live, inside)

    def _cut(
        self, ran: Iterable[int], later: Iterable[int]
    ) -> tuple[int, NDArray[np.int32], SimpleMaxFlow | None]:
        """Returns the bytes of the minimum cut, the fixed side of each node, and the flow, if any.

        A node that may lie on either side has its own number for a side.
        """
        side = np.arange(self.nodes, dtype=np.int32)
        side[np.fromiter(ran, np.int64) + 2] = BEFORE
        side[np.fromiter(later, np.int64) + 2] = AFTER
        tails, heads = side[self.tails], side[self.heads]
        across = (tails == BEFORE) & (heads == AFTER)
        certain = int(self.capacities[across].sum())
        open_arcs = (tails != heads) & ~across & (tails != AFTER) & (heads != BEFORE)
        if not open_arcs.any():
            return certain, side, None
        flow = SimpleMaxFlow()
        flow.add_arcs_with_capacity(tails[open_arcs], heads[open_arcs], self.capacities[open_arcs])
        if flow.solve(BEFORE, AFTER) != flow.OPTIMAL:
            raise AssertionError("a cut of finite size exists: the ops of `ran`")
        return certain + int(flow.optimal_flow()), side, flow

    def ancestors(self, k: int) -> set[int]:
        return _reached(k, self.before)

    def descendants(self, k: int) -> set[int]:
        return _reached(k, self.after)


def _reached(k: int, neighbours: Sequence[Sequence[int]]) -> set[int]:
    """Returns the places that can be reached from place `k` by `neighbours`, without `k` itself."""
    seen = set(neighbours[k])
    stack = list(seen)
    while stack:
        for n in neighbours[stack.pop()]:
            if n not in seen:
                seen.add(n)
                stack.append(n)
    return seen


def own_bytes(problem: Problem, i: OpId) -> int:
    """Returns the bytes by which an op raises the live bytes while it runs.

    Counts as if its results were written over every dying buffer that they may be written over.
    """
    op = problem.ops[i]
    made: dict[int, set[BufferId]] = {}
    dying: dict[int, set[BufferId]] = {}
    for new, old in op.over:
        if can_take(problem, new, old):
            made.setdefault(problem.buffers[new].transient, set()).add(new)
            dying.setdefault(problem.buffers[new].transient, set()).add(old)
    shared = sum(size * min(len(made[size]), len(dying[size])) for size in made)
    created = sum(problem.buffers[b].transient for b in op.creates)
    return created + op.scratch - shared


def cut_bound(
    problem: Problem,
    order: Sequence[OpId],
    curve: Sequence[int],
    known: Bound,
    work: Work | None = None,
) -> Answer[Proof]:
    """Searches for the op whose minimum cut proves the highest lower bound on every order's peak.

    The bound of an op is never above the bytes that are alive while it runs in a known order. So
    the ops with the most live bytes in the known order are tried first, until no other op can raise
    the bound. If `known` was proven by a search, at least one op is tried: a cut that proves the
    same bound is the better proof, since others can check it.

    Args:
        problem: the Problem to bound.
        order: any order of all ops.
        curve: the live curve of `order`, in bytes.
        known: a bound that is proven already.
        work: limits the search; unlimited if left out.

    Returns:
        The proof of the best bound, which is that of `known` or a cut; the peak of the order; the
        bound. `Answer.work` counts minimum cuts.
    """
    work = work or Work()
    cuts, asked = Cuts(problem), 0
    best = known
    for t in sorted(range(len(order)), key=lambda t: -curve[t]):
        better_proof = not asked and isinstance(known.proof, Search)
        if (curve[t] <= best.value and not better_proof) or work.is_over():
            break
        bound = cuts.bound(order[t])
        asked += 1
        work.spend(cuts.cost(order[t]))
        if bound > best.value or (bound == best.value and better_proof):
            best = Bound(bound, Cut(order[t]))
    return minimized(best.proof, max(curve, default=0), best.value, asked)
