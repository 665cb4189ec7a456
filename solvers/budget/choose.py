"""Chooses the copies that keep a step within a limit, at the least cost.

program ── solve ── choice ── live curve of the step with the copies ── within the limit? done
   ^                                        │
   └── a row for each segment's worst ──────┘  a row that holds in the program and not in truth
       moment above the limit                  gets the difference as extra bytes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ortools.sat.python import cp_model

from roam.core.machine import Bytes, Seconds
from roam.solvers.budget.copies import Choice, Copies, Curve, Step
from roam.solvers.budget.retention import AT, NANOSECOND, Moment, Program, Reach, value_of


@dataclass(frozen=True)
class Limits:
    """How far the search goes.

    Attributes:
        reach: how many ops up the forward a chain of copies goes.
        rounds: how many times the program is solved.
        seconds: of CP-SAT's deterministic time for one solution.
        all_seconds: of it for all solutions together; the first may take `seconds` in any case.
        trials: copies that are tried to be left out in the end.
        gap: share of the cost by which a solution may be above the best one.
    """

    reach: int = 96
    rounds: int = 40
    seconds: Seconds = 5.0
    all_seconds: Seconds = 12.0
    trials: int = 400
    gap: float = 0.005


@dataclass(frozen=True)
class Chosen:
    """The copies, their peak in program order, and whether that is within the limit."""

    copies: Copies
    peak: Bytes
    fits: bool


def choose(
    step: Step, limit: Bytes, hint: Choice = frozenset(), limits: Limits | None = None
) -> Chosen:
    """Searches for the cheapest copies with which the step's live bytes stay within `limit`.

    Returns:
        The copies; if none were found that fit, those with the lowest peak that was seen.
    """
    limits = limits or Limits()
    found = _Search(step, limits, hint).cheapest(limit)
    if found is None:
        low = smallest_peak(step, limits)
        if low.peak > limit:
            return Chosen(low.copies, low.peak, False)
        found = Chosen(low.copies, low.peak, True)
    return trimmed(step, found, limit, limits.trials)


def trimmed(step: Step, found: Chosen, limit: Bytes, trials: int) -> Chosen:
    """Returns the choice without copies that it does not need to stay within the limit.

    Tries them one by one, the most expensive first.
    """
    by_cost = sorted(found.copies.placed, key=lambda p: (-step.forms[p.op].cost, p.op, p.segment))
    for p in by_cost[:trials]:
        copies = Copies.of(step, found.copies.choice - {(p.op, p.segment)})
        if copies.cost < found.copies.cost and (peak := Curve.of(copies).peak) <= limit:
            found = Chosen(copies, peak, True)
    return found


def smallest_peak(step: Step, limits: Limits | None = None) -> Chosen:
    """Searches for the copies with the lowest peak, whatever they cost."""
    search = _Search(step, limits or Limits())
    search.descend()
    return search.low


class _Search:
    """The program, the solutions so far, and the corrections of its rows."""

    def __init__(self, step: Step, limits: Limits, hint: Choice = frozenset()) -> None:
        self.step, self.limits, self.hint = step, limits, hint
        self.program = Program(Reach(step, limits.reach))
        self.extra: dict[Moment, Bytes] = {}
        self.left = self.limits.all_seconds
        self.is_proven = False  # that the latest solution is the program's best
        nothing = Copies.of(step, frozenset())
        self.seen = Curve.of(nothing)
        self.low = Chosen(nothing, self.seen.peak, False)

    def cheapest(self, limit: Bytes) -> Chosen | None:
        if self.low.peak <= limit:
            return Chosen(self.low.copies, self.low.peak, True)
        for moment, _ in self._worst(self.seen, limit):
            self._add(moment, 0)
        program = self.program
        program.model.add(program.most <= limit)
        program.model.minimize(program.seconds())
        best: Chosen | None = None
        for _ in range(self.limits.rounds):
            solver = self._solve()
            if solver is None:
                break
            found, curve = self._found(solver, limit)
            if not found.fits:
                self._correct(solver, curve, limit)
                continue
            if best is None or found.copies.cost < best.copies.cost:
                best = found
            if self.is_proven:
                break
            # the time for one solution has ended: the next one must be cheaper
            most = (1 - self.limits.gap) * best.copies.cost
            program.model.add(program.seconds() <= int(most / NANOSECOND))
        return best

    def descend(self) -> None:
        """Lowers `low.peak` as far as it goes."""
        for moment, _ in self._worst(self.seen, 0):
            self._add(moment, 0)
        self.program.model.minimize(self.program.most)
        for _ in range(self.limits.rounds):
            solver = self._solve()
            if solver is None:
                return
            reached = int(solver.objective_value)
            found, curve = self._found(solver, reached)
            if found.fits:
                return
            self._correct(solver, curve, reached)

    def _found(self, solver: cp_model.CpSolver, limit: Bytes) -> tuple[Chosen, Curve]:
        again = self.program.again.items()
        choice = frozenset(c for c, x in again if solver.boolean_value(x))
        copies = Copies.of(self.step, choice)
        curve = Curve.of(copies)
        found = Chosen(copies, curve.peak, curve.peak <= limit)
        self.low = min(self.low, found, key=lambda c: c.peak)
        self.hint = copies.choice
        return found, curve

    def _solve(self) -> cp_model.CpSolver | None:
        if self.left <= 0:
            return None
        self.program.hint(self.hint)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.relative_gap_limit = self.limits.gap
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
        """Yields the worst moment above the limit of the forward and of each segment."""
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
