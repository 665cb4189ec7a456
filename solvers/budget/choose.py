"""Chooses the copies that keep a step within a limit, at the least cost.

Chooses by minimum cuts first (hull.py). If they find nothing, or a choice that may cost noticeably
more than necessary, a CP-SAT program (retention.py) is solved again and again:

program ── solve ── choice ── live curve of the step with the copies ── within the limit? done
   ^                                        │
   └── a row for each segment's worst ──────┘  If the program's live bytes at such a moment are
       moment above the limit                  below the true ones, its row gets the difference as
                                               extra bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from ortools.sat.python import cp_model

from roam.core.machine import Bytes, Seconds
from roam.solvers.budget.copies import Choice, Copies, Curve, Step
from roam.solvers.budget.copy_reach import Reach
from roam.solvers.budget.hull import Hull, cheaper
from roam.solvers.budget.retention import AT, NANOSECOND, Moment, Program, value_of


@dataclass(frozen=True)
class Limits:
    """Limits on the search.

    Attributes:
        reach: limit on the ops from the first to the last copy of a chain, in the forward.
        rounds: limit on the solutions of the CP-SAT program.
        seconds: limit on CP-SAT's deterministic time for one solution.
        all_seconds: limit on CP-SAT's deterministic time for all solutions of one program; 0 turns
            CP-SAT off. The last solution may exceed the limit by up to `seconds`.
        halvings: how many times the search for the smallest peak halves an interval.
        trials: limit on the copies whose removal is tried at the end.
        gap: a solution of CP-SAT is good enough if it costs at most this share more than the best
            solution of its program.
        worth: a choice is good enough if its seconds exceed the lower bound by at most this share
            of the step's seconds. If not, CP-SAT searches among the copies of the cuts.
        much: as `worth`; if exceeded, CP-SAT also searches among all copies, which takes far
            longer.
    """

    reach: int = 96
    rounds: int = 40
    seconds: Seconds = 3.0
    all_seconds: Seconds = 6.0
    halvings: int = 7
    trials: int = 400
    gap: float = 0.005
    worth: float = 0.002
    much: float = 0.01


# without CP-SAT: a choice takes a second and not a minute
QUICK = Limits(all_seconds=0.0, trials=40)


@dataclass(frozen=True)
class Chosen:
    """The copies, the step's peak with them in program order, and whether that fits the limit."""

    copies: Copies
    peak: Bytes
    fits: bool


def choose(step: Step, limit: Bytes, limits: Limits | None = None) -> Chosen:
    """Searches for the cheapest copies that keep the step's live bytes within `limit`.

    Returns:
        The copies; if no choice that fits is found, the choice with the lowest peak.
    """
    limits = limits or Limits()
    hull = Hull(step, limit)
    best = hull.best
    enough = hull.least + limits.worth * step.seconds
    for among, worth in ((hull.copies(), limits.worth), (None, limits.much)):
        most = inf if best is None else best.copies.cost
        # false if no choice can fit: `least` is inf then
        if limits.all_seconds and most > hull.least + worth * step.seconds:
            start = hull.lowest if best is None else best
            search = _Search(step, limits, start.copies.choice, among)
            best = cheaper(best, search.cheapest(limit))
    if best is None:
        low = hull.lowest if hull.least == inf else _smallest(step, limits, limit)
        if low.peak > limit:
            return Chosen(low.copies, low.peak, False)
        best = low
    found = trimmed(best, limit, limits.trials, enough)
    return Chosen(found.copies, found.peak, True)


def trimmed(found: Curve, limit: Bytes, trials: int, enough: Seconds = 0.0) -> Curve:
    """Returns the choice without those of its copies that the limit does not need.

    Tries to remove one copy after another, the most expensive first, up to `trials` times or until
    the choice costs `enough` or less.
    """
    step = found.copies.step
    by_cost = sorted(found.copies.placed, key=lambda p: (-step.forms[p.op].cost, p.op, p.segment))
    for p in by_cost[:trials]:
        if found.copies.cost <= enough:
            break
        copies = Copies.of(step, found.copies.choice - {(p.op, p.segment)})
        if copies.cost < found.copies.cost and (curve := Curve.of(copies)).peak <= limit:
            found = curve
    return found


def smallest_peak(step: Step, limits: Limits | None = None) -> Chosen:
    """Searches for the copies with the lowest peak, and for cheaper ones with the same peak."""
    limits = limits or Limits()
    low = _smallest(step, limits)
    hull = Hull(step, low.peak)
    best = cheaper(low, hull.best)
    assert best is not None
    found = trimmed(best, low.peak, limits.trials)
    return Chosen(found.copies, found.peak, True)


def _smallest(step: Step, limits: Limits, enough: Bytes = 0) -> Curve:
    """Searches for the choice with the lowest peak. Stops at a peak of `enough` bytes or fewer."""
    low = Curve.of(Copies.of(step, frozenset()))
    too_low, copies = 0, low.copies.choice
    for _ in range(limits.halvings):
        hull = Hull(step, (too_low + low.peak) // 2)
        too_low = too_low if hull.best else hull.limit
        low = min(low, hull.lowest, key=lambda c: c.peak)
        copies |= hull.copies()
        if low.peak <= enough:
            return low
    left = limits.all_seconds
    for among in (copies, None) if left else ():
        search = _Search(step, limits, low.copies.choice, among)
        search.left = left
        search.descend()
        low, left = min(low, search.low, key=lambda c: c.peak), search.left
    return low


class _Search:
    """A search by the CP-SAT program, with the solutions so far and the corrections of its rows.

    Args:
        step: the step.
        limits: limits on the search.
        hint: a choice to begin with.
        among: the only copies that may be chosen; None for all within `Limits.reach`.
    """

    def __init__(self, step: Step, limits: Limits, hint: Choice, among: Choice | None) -> None:
        self.step, self.limits, self.hint = step, limits, hint
        reach = limits.reach if among is None else len(step.problem.ops)
        self.program = Program(Reach(step, reach, among))
        self.extra: dict[Moment, Bytes] = {}
        self.left = self.limits.all_seconds
        self.is_proven = False  # whether the latest solution is optimal for the program
        self.seen = self.low = Curve.of(Copies.of(step, frozenset()))

    def cheapest(self, limit: Bytes) -> Curve | None:
        if self.low.peak <= limit:
            return self.low
        for moment, _ in self._worst(self.seen, limit):
            self._add(moment, 0)
        program = self.program
        program.model.add(program.most <= limit)
        program.model.minimize(program.seconds())
        best: Curve | None = None
        for _ in range(self.limits.rounds):
            solver = self._solve()
            if solver is None:
                break
            found = self._found(solver)
            if found.peak > limit:
                self._correct(solver, found, limit)
                continue
            best = cheaper(best, found)
            assert best is not None
            if self.is_proven:
                break
            # CP-SAT ran out of time before a proof: ask it for a cheaper solution
            most = (1 - self.limits.gap) * best.copies.cost
            program.model.add(program.seconds() <= int(most / NANOSECOND))
        return best

    def descend(self) -> None:
        """Lowers `low.peak` as far as the program can."""
        for moment, _ in self._worst(self.seen, 0):
            self._add(moment, 0)
        self.program.model.minimize(self.program.most)
        for _ in range(self.limits.rounds):
            solver = self._solve()
            if solver is None:
                return
            reached = int(solver.objective_value)
            found = self._found(solver)
            if found.peak <= reached:
                return
            self._correct(solver, found, reached)

    def _found(self, solver: cp_model.CpSolver) -> Curve:
        again = self.program.again.items()
        choice = frozenset(c for c, x in again if solver.boolean_value(x))
        found = Curve.of(Copies.of(self.step, choice))
        self.low = min(self.low, found, key=lambda c: c.peak)
        self.hint = found.copies.choice
        return found

    def _solve(self) -> cp_model.CpSolver | None:
        if self.left <= 0:
            return None
        self.program.hint(self.hint)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.linearization_level = 2  # at lower levels CP-SAT's bound is 0
        solver.parameters.relative_gap_limit = self.limits.gap
        solver.parameters.absolute_gap_limit = self.limits.worth * self.step.seconds / NANOSECOND
        solver.parameters.max_deterministic_time = self.limits.seconds
        status = solver.solve(self.program.model)
        self.left -= solver.response_proto.deterministic_time
        self.is_proven = status == cp_model.OPTIMAL
        return solver if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None

    def _add(self, moment: Moment, extra: Bytes) -> None:
        self.extra[moment] = extra
        self.program.add_row(moment, extra)

    def _correct(self, solver: cp_model.CpSolver, curve: Curve, limit: Bytes) -> None:
        for moment, live in self._worst(curve, limit):
            row = self.program.rows.get(moment)
            missing = 0 if row is None else live - value_of(row, solver)
            self._add(moment, max(0, missing, self.extra.get(moment, 0)))

    def _worst(self, curve: Curve, limit: Bytes) -> Iterator[tuple[Moment, Bytes]]:
        """Yields the worst moment of the forward and of each segment, if it is above the limit.

        A moment comes with its live bytes.
        """
        worst: dict[int, tuple[Bytes, Moment]] = {}
        place = {(p.op, p.segment): p.before for p in curve.copies.placed}
        for w, live in zip(curve.what, curve.live, strict=True):
            if isinstance(w, tuple):
                moment, where = (place[w], w[0]), w[1]
            else:
                moment, where = (w, AT), -1 if w < self.step.boundary else self.step.segment(w)
            if live > max(limit, worst.get(where, (0, moment))[0]):
                worst[where] = live, moment
        for _, (live, moment) in sorted(worst.items()):
            yield moment, live
