"""Proves a lower bound on the peak of every order: the fewest bytes alive when an op runs.

When an op begins, some set of other ops has run. The set contains all ancestors of the op, none of
its descendants, and with each op in the set also the predecessors of that op. A buffer is alive
then if an op in the set made it, and an op outside the set reads it or the user keeps it. Of all
possible sets, take one that leaves the fewest bytes alive: no order runs the op with fewer bytes
alive. While the op runs, its own bytes are added (`own_bytes`).

        ran before            │  runs later            A set is a border through the graph. It lies
    ancestors ── a ─ 12 MiB ──│── b ── descendants     between the op's ancestors and descendants.
                              │                        Each buffer that crosses it is alive: here
                           the op                      the 12 MiB that a makes and b reads.

The ops and their buffers are the nodes and the arcs of a flow network, and a set is a cut of the
network. So maximum flow finds the set that leaves the fewest bytes alive (Picard 1976 on closures).
The bound of `roam.core.bounds` is weaker: it counts only the buffers that are alive for every set.
If each set leaves one of two buffers alive, but not always the same one, that bound counts neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from roam.core.bounds import reached
from roam.core.lifetime import can_take
from roam.core.problem import BufferId, OpId, Problem
from roam.core.proof import Bound, Cut, Proof, Search
from roam.solvers.answer import Answer, minimized
from roam.solvers.work import Units, Work

# numbers of two nodes of the flow network: source (ops that have run), sink (ops that run later)
BEFORE, AFTER = 0, 1
# units of work for one minimum cut: A_CUT, plus AN_ARC per arc of the flow network; measured
A_CUT, AN_ARC = 100_000, 60


class Cuts:
    """Proves lower bounds on the bytes alive while an op of a Problem runs, in every order.

    Builds the flow network of a phase when an op of the phase is first asked about, and keeps it.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.unbounded = 1 + sum(b.size for b in problem.buffers)
        self.place = {i: k for ops in problem.phases for k, i in enumerate(ops)}
        self.networks: dict[int, Network] = {}

    def bound(self, op: OpId) -> int:
        """Returns a lower bound on the transient bytes alive while `op` runs, in every order.

        Takes the fewest bytes that can be alive just before `op`, and adds the op's own bytes as if
        it wrote over all dying buffers that it may ever write over.
        """
        network = self.network(self.problem.ops[op].phase)
        return network.cheapest(self.place[op]) + own_bytes(self.problem, op)

    def cost(self, op: OpId) -> Units:
        """Returns the units of work (about a nanosecond each) that the call `bound(op)` takes."""
        return A_CUT + AN_ARC * len(self.network(self.problem.ops[op].phase).tails)

    def network(self, phase: int) -> Network:
        if phase not in self.networks:
            self.networks[phase] = Network(self.problem, phase, self.unbounded)
        return self.networks[phase]


class Least(NamedTuple):
    """The set of ops of a phase that leaves the fewest bytes alive.

    Some ops were given that the set has to contain, and some that it must not contain. A set leaves
    the bytes that are alive when exactly its ops, and all earlier phases, have run.

    Attributes:
        live: the transient bytes that the set leaves alive.
        ran: the ops of the set, each by its index in the program order of the phase. If several
            sets leave the fewest bytes alive, this is the smallest of them.
    """

    live: int
    ran: set[int]


class Network:
    """A flow network of a phase: ops are nodes, and buffers are arcs from their maker to a reader.

    Nodes 0 and 1 are the source and the sink, and node k + 2 is the op at index k of the phase's
    program order. A buffer that several ops of the phase read has one more node.

    A buffer that an earlier phase made starts at the source. A buffer that a later phase reads or
    the user keeps ends at the sink. Only buffers with transient bytes have arcs. An arc of the
    capacity `unbounded` leads from each op to each of its predecessors, so that an op is on the
    source's side of a cut (has run) only if its predecessors are.

    Attributes:
        ops: the ids of the ops of the phase, in program order. All other attributes and all methods
            give ops by their index in this list.
        place: by op id, its index in `ops`.
        unbounded: the capacity, in bytes, of an arc that must not be in a minimum cut: it is larger
            than all buffers together.
        before, after: by op, the ops of the phase that it waits for, or that wait for it.
        tails, heads, capacities: by arc, its two nodes, and its capacity in bytes.
        nodes: the number of nodes.
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
                # p is on the source's side if k is: if an op has run, so have its predecessors
                arc(k + 2, p + 2, unbounded)
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
        """Returns the fewest bytes that can be alive just before an op begins, over all orders.

        `k` is the index of the op in the program order of the phase.
        """
        live, _, _ = self._cut(self.ancestors(k), [k, *self.descendants(k)])
        return live

    def least(self, ran: Iterable[int], later: Iterable[int]) -> Least:
        """Finds the set of ops with `ran` and without `later` that leaves the fewest bytes alive.

        A set leaves the bytes that are alive when exactly its ops have run.

        Args:
            ran: ops that the set contains, by their index in the program order of the phase. With
                each op, `ran` lists all ops of the phase that it waits for.
            later: ops that the set does not contain, by their index too. With each op, `later`
                lists all ops of the phase that wait for it.
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
        """Finds the minimum cut between ops that have run and ops that run later.

        Args:
            ran: ops on the side of those that have run, by their index in program order.
            later: ops on the side of those that run later, by their index too.

        Returns:
            live: the bytes of the buffers across the minimum cut.
            side: by node, BEFORE or AFTER if the arguments put the node on that side; else the
                node's own number.
            flow: the solved maximum flow between the nodes that may lie on either side; None if the
                arguments alone decide the bytes.
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
        """Returns the ops of the phase that run before op `k` in every order.

        All ops are given by their index in the program order of the phase.
        """
        return reached(k, self.before) - {k}

    def descendants(self, k: int) -> set[int]:
        """Returns the ops of the phase that run after op `k` in every order.

        All ops are given by their index in the program order of the phase.
        """
        return reached(k, self.after) - {k}


def own_bytes(problem: Problem, i: OpId) -> int:
    """Returns the bytes that op `i` adds, while it runs, to those alive just before it begins.

    These are its results and its scratch space, less the results that it may write over dying
    buffers, as if the order let all these buffers die at the op. A buffer is written over by only
    one result of the same size: if there are fewer such buffers than results, the other results
    are counted.
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

    The minimum cut of an op bounds the bytes alive while the op runs, in every order. So the bound
    is never above the live bytes of that op in the known order `order`. The ops with the most live
    bytes in that order are tried first, until no op left can prove a higher bound, or no work is
    left. If `known` was proven by a search, the first op is tried in any case: a cut that proves
    the same bound is the better proof, because it can be checked without the search.

    Args:
        problem: the Problem whose orders are bounded.
        order: any order of all ops.
        curve: the live curve of `order`, in bytes.
        known: a lower bound that is proven already.
        work: limits the work and the time of the search; no limit if left out.

    Returns:
        The proof of the highest bound (a cut, or the proof of `known`); the peak of `order`; the
        highest bound. `Answer.work` is the number of minimum cuts computed.
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
