"""Builds the network whose minimum cut is the cheapest state of a step before an op's first run.

A state says which ops have run, and which of these run again. It costs the seconds of the ops that
run again, and a price for each live byte. The docstring of `priced_cut` draws the network, and the
functions there choose the price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from roam.core.machine import Bytes
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.bound.min_cut import AFTER
from roam.solvers.form import Form

NEVER = 2**44  # a capacity that is never part of a minimum cut


class PricedNetwork:
    """A network with nodes for the states of ops and buffers, and arcs that cost seconds or bytes.

    Attributes:
        problem: the Problem.
        forms: by op that may be recomputed, the form of its copies.
        costs: by op, the seconds of its copy as an exact fraction; of the op itself if it cannot be
            recomputed.
        ran, over: by op, its nodes x and z in the drawing of `priced_cut`. Node x is on the side of
            the source if the op ran, and z if it ran and does not run again. An op that cannot be
            recomputed has one node for both.
        nodes: the number of nodes, source and sink included.
        tails, heads: by arc, its two nodes.
        seconds, bytes: by arc, its cost, in one of the two units; 0 in the other.
        sizes: the sum of `bytes`.
        limits: by arc, `NEVER` if no cut may contain it, else 0.
        reads: by op, the nodes of the buffers that it reads or changes in its first run.
        made: (buffer, op) -> the node of the buffer with the contents that this op wrote.
    """

    def __init__(self, problem: Problem, forms: Mapping[OpId, Form]) -> None:
        self.problem, self.forms = problem, forms
        ops = problem.ops
        again = [forms.get(i) for i in range(len(ops))]
        self.costs = [
            Fraction(op.cost if form is None else form.cost)
            for op, form in zip(ops, again, strict=True)
        ]
        self.ran = list(range(2, len(ops) + 2))
        self.over = [r + len(ops) if i in forms else r for i, r in enumerate(self.ran)]
        self.nodes = 2 * len(ops) + 2
        self._arcs: list[tuple[int, int, float, Bytes, int]] = []
        self._draw_ops()
        self.made: dict[tuple[BufferId, OpId], int] = {}
        self.reads: list[list[int]] = [[] for _ in ops]
        self._draw_buffers()
        arcs = self._arcs or [(0, 0, 0.0, 0, 0)]
        tails, heads, seconds, sizes, limits = zip(*arcs, strict=True)
        self.tails, self.heads = np.array(tails, np.int32), np.array(heads, np.int32)
        self.seconds, self.bytes = np.array(seconds, np.float64), np.array(sizes, np.float64)
        self.limits = np.array(limits, np.int64)
        self.sizes = sum(sizes)

    def _arc(self, tail: int, head: int, seconds: float | None = None, size: Bytes = 0) -> None:
        """Adds an arc that costs seconds or bytes; without a cost, one that no cut may contain.

        Adds no arc from a node to itself, such as from x to z of an op that cannot be recomputed:
        one node stands for both.
        """
        if tail != head:
            never = NEVER if seconds is None and not size else 0
            self._arcs.append((tail, head, seconds or 0.0, size, never))

    def _draw_ops(self) -> None:
        for i, before in enumerate(self.problem.predecessors):
            for p in before:
                self._arc(self.ran[i], self.ran[p])
            if i in self.forms:
                self._arc(self.ran[i], self.over[i], float(self.costs[i]))
                self._arc(self.over[i], self.ran[i])

    def _draw_buffers(self) -> None:
        ops, users = self.problem.ops, self.problem.users
        # by buffer, the ops whose copies read it although the ops do not
        again: dict[BufferId, list[OpId]] = {}
        for i, form in self.forms.items():
            for b in form.reads:
                if b not in ops[i].reads:
                    again.setdefault(b, []).append(i)
        for b, buffer in enumerate(self.problem.buffers):
            writer: OpId | None = self.problem.maker[b]
            readers: list[OpId] = []
            for u in sorted({*users[b], *again.get(b, ())}):
                readers.append(u)
                if b in ops[u].mutates:
                    self._draw_version(b, writer, readers, kept=False)
                    if buffer.home is Home.USER:
                        for r in readers:  # their copies must run before `u` changes the buffer
                            self._arc(self.ran[u], self._read_until(r, b))
                    writer, readers = u, []
            self._draw_version(b, writer, readers, kept=buffer.kept)

    def _draw_version(
        self, b: BufferId, writer: OpId | None, readers: Sequence[OpId], *, kept: bool
    ) -> None:
        """Adds a node for a buffer with the contents that `writer` leaves for `readers`.

        `kept` says whether the user keeps these contents. Adds nothing if no op reads them and the
        user does not keep them, if the buffer was there before the step (`writer` is None), or if
        it has no transient bytes.
        """
        size = self.problem.buffers[b].transient
        if writer is None or not size or not (readers or kept):
            return
        node = self.nodes
        self.nodes += 1
        self.made[b, writer] = node
        self._arc(self.written_by(writer, b), node, size=size)
        for r in readers:
            self._arc(node, self._read_until(r, b))
            if b in (*self.problem.ops[r].reads, *self.problem.ops[r].mutates):
                self.reads[r].append(node)
        if kept:
            self._arc(node, AFTER)

    def written_by(self, writer: OpId, b: BufferId) -> int:
        """Returns the node whose side of the cut tells whether `writer` has written `b` for good.

        That is so if the op has run, and no later copy of it writes `b`. If its copy writes `b` at
        all, this is the node `over`, else the node `ran`.
        """
        form = self.forms.get(writer)
        return self.over[writer] if form is None or b in form.creates else self.ran[writer]

    def _read_until(self, reader: OpId, b: BufferId) -> int:
        """Returns the node whose side of the cut tells whether `reader` has read `b` for good.

        That is so if the op has run, and no later copy of it reads `b`. If its copy reads `b` at
        all, this is the node `over`, else the node `ran`.
        """
        form = self.forms.get(reader)
        return self.over[reader] if form is None or b in form.reads else self.ran[reader]
