"""Defines the CP-SAT program: which buffers are kept between segments, and which ops run again.

The program is that of Checkmate (arXiv 1910.02653), with segments of the backward instead of ops.
The variables are Booleans, for each buffer b that a copy can make again:

    kept[b, k]    buffer b is alive when segment k begins
    again[i, k]   op i runs again in segment k

and the constraints are

    a reader of b in segment k    kept[b, k] or again[maker of b, k]
    again[i, k]                   for each b that i reads, kept[b, k] or again[maker of b, k]
    kept[b, k + 1]                only if kept[b, k] or again[maker of b, k]
    again[i, k]                   only if an op or a copy of segment k reads what it makes

At a *moment* an op or a copy runs. The caller limits the live bytes moment by moment, and minimizes
the copies' seconds or the bytes at the worst moment. Inside a segment a copy runs just before its
first reader. If this is another copy, the places of both depend on the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from roam.core.lifetime import can_take, find_reuse, live_curve
from roam.core.machine import Bytes
from roam.core.problem import BufferId, OpId
from roam.solvers.budget.copies import Choice, Copy
from roam.solvers.budget.copy_reach import Reach

Moment = tuple[OpId, OpId]  # (p, i): the copy of op i in front of op p runs; (p, AT): op p runs
AT = 1 << 40
Literal = Any  # a Boolean variable of CP-SAT or its negation; ortools has a type for each
NANOSECOND = 1e-9


@dataclass(frozen=True)
class Term:
    """`size` bytes, which are alive at a moment if all literals of any one clause are true."""

    size: Bytes
    clauses: tuple[tuple[Literal, ...], ...]


@dataclass(frozen=True)
class Row:
    """The live bytes at a moment: `base`, plus the terms, which depend on the choice."""

    base: Bytes
    terms: tuple[Term, ...]


class Program:
    """The variables and constraints of the program. `add_row` limits the bytes at a moment.

    Attributes:
        again: (op, segment) -> a variable: the op runs again in the segment.
        kept: (buffer, segment) -> a variable: the buffer is alive when the segment begins.
        makers: by droppable buffer (copies can make it again), the op that makes it.
        until: by droppable buffer, the last segment in which the buffer may be read.
        rows: by moment with a constraint, the live bytes at the moment.
        stands: (i, k, p) -> a variable: the copy of op i in segment k runs before op p.
        most: a variable, no less than the live bytes at any moment with a constraint.
    """

    def __init__(self, reach: Reach) -> None:
        self.reach, self.step = reach, reach.step
        self.model = cp_model.CpModel()
        self.again: dict[Copy, Literal] = {
            copy: self.model.new_bool_var(f"again {copy}") for copy in reach.earliest
        }
        self.makers = self.step.makers()
        self.kept: dict[tuple[BufferId, int], Literal] = {}
        self.until: dict[BufferId, int] = self._until()
        for b, last in self.until.items():
            for k in range(last + 1):
                self.kept[b, k] = self.model.new_bool_var(f"kept {b} {k}")
        self._add_availability()
        self.rows: dict[Moment, Row] = {}
        self.stands: dict[tuple[OpId, int, OpId], Literal] = {}
        self.most = self.model.new_int_var(0, 1 << 50, "most")

    def _until(self) -> dict[BufferId, int]:
        """Returns, by droppable buffer, the last segment in which an op or a copy may read it."""
        last: dict[BufferId, int] = {}
        for b, k in self.reach.readers:
            last[b] = max(last.get(b, 0), k)
        for j, k in self.again:
            for b in self.step.forms[j].reads:
                if b in self.step.droppable:
                    last[b] = max(last.get(b, 0), k)
        return last

    def _made(self, b: BufferId, k: int) -> Literal | None:
        return self.again.get((self.makers[b], k))

    def _available(self, b: BufferId, k: int) -> list[Literal]:
        made = self._made(b, k)
        return [self.kept[b, k], *([] if made is None else [made])]

    def _add_availability(self) -> None:
        for b, k in self.reach.readers:
            self.model.add_bool_or(self._available(b, k))
        for (i, k), again in self.again.items():
            for b in self.step.forms[i].reads:
                if b in self.step.droppable:
                    self.model.add_bool_or([again.negated(), *self._available(b, k)])
            if (i, k) not in self.reach.direct:
                readers = (self.again[c, k] for c in self.reach.readers_again(i, k))
                self.model.add_bool_or([again.negated(), *readers])
        for (b, k), kept in self.kept.items():
            if k > 0:
                self.model.add_bool_or([kept.negated(), *self._available(b, k - 1)])

    # ---- live bytes ----

    @cached_property
    def curve(self) -> list[int]:
        """By op, the live bytes while it runs in the step without copies, in program order."""
        order = range(len(self.step.problem.ops))
        return live_curve(self.step.problem, order, find_reuse(self.step.problem, order))

    @cached_property
    def last_forward(self) -> dict[BufferId, OpId]:
        users, boundary = self.step.problem.users, self.step.boundary
        return {
            b: max((u for u in users[b] if u < boundary), default=i) for b, i in self.makers.items()
        }

    @cached_property
    def last_use(self) -> dict[BufferId, OpId]:
        users = self.step.problem.users
        return {b: max(users[b], default=i) for b, i in self.makers.items()}

    @cached_property
    def between(self) -> NDArray[np.int64]:
        """By op, the bytes alive just before it runs, without droppable buffers.

        Counts buffers that an earlier op made and that this op, a later op or the user still needs.
        """
        problem = self.step.problem
        change = np.zeros(len(problem.ops) + 2, np.int64)
        for b, i in enumerate(problem.maker):
            if i is None or b in self.makers:
                continue
            buffer = problem.buffers[b]
            last = len(problem.ops) if buffer.kept else max(problem.users[b], default=i)
            if last > i:
                change[i + 1] += buffer.transient
                change[last + 1] -= buffer.transient
        found: NDArray[np.int64] = change.cumsum()
        return found

    def row(self, moment: Moment) -> Row:
        """Returns the live bytes at a moment: a base, and terms that depend on the choice."""
        p, i = moment
        if p < self.step.boundary:
            return self._forward_row(p)
        k = self.step.segment(p)
        problem = self.step.problem
        terms = [t for b in sorted(self.until) if (t := self._term(b, k, moment)) is not None]
        if i == AT:
            alive = sum(problem.buffers[b].transient for b in self.makers if self.last_use[b] >= p)
            return Row(self.curve[p] - alive, tuple(terms))
        form = self.step.forms[i]
        own = form.scratch + sum(
            problem.buffers[b].transient for b in form.creates if b not in self.until
        )
        there, sooner = self._stands(i, k, p), self._stands(i, k, p - 1)
        if there is not None and own:
            runs = (there,) if sooner is None else (there, sooner.negated())
            terms.append(Term(own, (runs,)))
        return Row(int(self.between[p]), tuple(terms))

    def _forward_row(self, p: OpId) -> Row:
        problem = self.step.problem
        # alive at p only if kept for the backward: buffers that the forward last uses before p, and
        # buffers that it last uses at p and over which p may write a result
        over = {old for new, old in problem.ops[p].over if can_take(problem, new, old)}
        last = self.last_forward
        kept = [b for b in sorted(self.makers) if last[b] < p or (last[b] == p and b in over)]
        saved = sum(
            problem.buffers[b].transient for b in kept if self.last_use[b] >= self.step.boundary
        )
        terms = (
            Term(problem.buffers[b].transient, ((self.kept[b, 0],),))
            for b in kept
            if b in self.until
        )
        return Row(self.curve[p] - saved, tuple(terms))

    def _term(self, b: BufferId, k: int, moment: Moment) -> Term | None:
        """Returns the term of buffer b for a moment of segment k; None if b is never alive then.

        It is alive if it was kept until segment k or a copy has made it by the end of the moment,
        and if an op or a copy of segment k at this moment or later, or a later segment, reads it.
        """
        if self.until[b] < k:
            return None
        p, i = moment
        later = self.kept.get((b, k + 1))
        reads = self.reach.readers.get((b, k), [])
        read_late = any(r >= p for r in reads)  # op p runs at this moment or after this copy
        there = [self.kept[b, k]]
        if (made := self._stands(self.makers[b], k, _up_to(moment, self.makers[b]))) is not None:
            there.append(made)
        # clauses that are true if a copy that reads the buffer runs at this moment or later
        pending: list[tuple[Literal, ...]] = []
        for j in self.reach.consumers.get(b, ()):
            if (again := self.again.get((j, k))) is not None:
                ran = self._stands(j, k, _up_to(moment, j + 1))  # the copy ran before the moment
                if ran is not again:
                    pending.append((again,) if ran is None else (again, ran.negated()))
        needed = [()] if read_late else [*pending, *([] if later is None else [(later,)])]
        # an op of the segment has read the buffer by now, so it was kept or made before
        if any(r < p or (r == p and i == AT) for r in reads):
            clauses = tuple(needed)
        else:
            clauses = tuple((x, *n) for x in there for n in needed)
        return Term(self.step.problem.buffers[b].transient, clauses) if clauses else None

    def _stands(self, i: OpId, k: int, p: OpId) -> Literal | None:
        """Returns a literal: the copy of op i in segment k is chosen and runs before op p does.

        A copy runs just before its first reader. So the literal is true if that reader is p or an
        earlier op of the segment, or a copy for which the same literal is true. Returns None if the
        copy cannot run so early.
        """
        for j in self._undefined(i, k, p):
            again = self.again[j, k]
            readers = self.reach.readers_again(j, k)
            reasons = [x for c in readers if (x := self._known(c, k, p)) is not None]
            found = self.model.new_bool_var(f"{j} stands by {p} in {k}")
            self.model.add_implication(found, again)
            self.model.add_bool_or([found.negated(), *reasons])
            for x in reasons:
                self.model.add_bool_or([found, again.negated(), x.negated()])
            self.stands[j, k, p] = found
        return self._known(i, k, p)

    def _undefined(self, i: OpId, k: int, p: OpId) -> list[OpId]:
        """Returns the ops that need a variable in `stands`, for segment k and op p, and have none.

        These are op i, the later ops whose copies read the copy of op i, the ops whose copies read
        theirs, and so on. The last op of the forward comes first, so each op comes after those that
        read it. Does not recurse, because such a chain may be as long as the forward.
        """
        found: set[OpId] = set()
        waiting = [i]
        while waiting:
            j = waiting.pop()
            if j not in found and (j, k, p) not in self.stands and self._is_open(j, k, p):
                found.add(j)
                waiting += self.reach.readers_again(j, k)
        return sorted(found, reverse=True)

    def _is_open(self, i: OpId, k: int, p: OpId) -> bool:
        """Returns whether the choice decides if the copy of op i in segment k runs before op p."""
        return self._may_stand(i, k, p) and p < self.reach.latest[i, k]

    def _may_stand(self, i: OpId, k: int, p: OpId) -> bool:
        """Returns whether op i may have a copy in segment k that runs before op p."""
        earliest = self.reach.earliest
        return (i, k) in earliest and earliest[i, k] <= p

    def _known(self, i: OpId, k: int, p: OpId) -> Literal | None:
        """Returns the literal of `_stands`. If it is a variable in `stands`, this must exist."""
        if self._is_open(i, k, p):
            return self.stands[i, k, p]
        return self.again[i, k] if self._may_stand(i, k, p) else None

    def add_row(self, moment: Moment, extra: Bytes = 0) -> None:
        """Adds a constraint: the live bytes at a moment, plus `extra`, are at most `self.most`.

        An earlier constraint for the same moment stays.
        """
        row = self.rows.setdefault(moment, self.row(moment))
        alive: list[Literal] = []
        sizes: list[Bytes] = []
        base = row.base + extra
        for n, term in enumerate(row.terms):
            if () in term.clauses:
                base += term.size
                continue
            if len(term.clauses) == 1 and len(term.clauses[0]) == 1:
                [[literal]] = term.clauses
            else:
                literal = self.model.new_bool_var(f"alive {n} at {moment}")
                for clause in term.clauses:
                    self.model.add_bool_or([literal, *(x.negated() for x in clause)])
            alive.append(literal)
            sizes.append(term.size)
        self.model.add(base + cp_model.LinearExpr.weighted_sum(alive, sizes) <= self.most)

    # ---- objective and hint ----

    def seconds(self) -> cp_model.LinearExprT:
        costs = [round(self.step.forms[i].cost / NANOSECOND) for i, _ in self.again]
        return cp_model.LinearExpr.weighted_sum(list(self.again.values()), costs)

    def hint(self, choice: Choice) -> None:
        self.model.clear_hints()
        for copy, again in self.again.items():
            self.model.add_hint(again, copy in choice)


def _up_to(moment: Moment, i: OpId) -> OpId:
    """Returns the last op q for which a copy of op i that stands just before q has run by a moment.

    Copies that stand just before the same op run in the order of their ops. A copy that runs at the
    moment itself has run by then.
    """
    p, now = moment
    return p if i <= now else p - 1


def value_of(row: Row, solver: cp_model.CpSolver) -> Bytes:
    """Returns the live bytes of a row in the solver's solution."""
    return row.base + sum(
        term.size
        for term in row.terms
        if any(all(solver.boolean_value(x) for x in clause) for clause in term.clauses)
    )
