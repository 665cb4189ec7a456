"""Searches for the copies that keep a step's live bytes within a limit, at the least cost.

Chooses by minimum cuts first (hull.py), which may prove that no choice fits. Otherwise, if the cuts
find nothing, or a choice that may cost noticeably more than necessary, a CP-SAT program
(retention.py) is solved again and again, each time with more rows (linear constraints):

program ── solve ── choice ── live curve of the step with the copies ── within the limit?
   ^ ^                                      │ no                            │ yes
   │ └── a row for each segment's worst ────┘  If the program's live bytes  │
   │     moment above the limit                at such a moment are below   │ proven the cheapest:
   │                                           the true ones, its row gets  │ done
   │                                           the difference as extra      │
   └── a row that asks for a cheaper choice    bytes.                       │ not proven
                       └────────────────────────────────────────────────────┘

The search also ends when CP-SAT finds no solution, or when the rounds or CP-SAT's time are used up.
The cheapest choice found that fits is returned.
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
        reach: how many ops apart, in the forward, the first and the last op of a chain may be, if
            CP-SAT searches among all copies. In a chain, each copy reads the copy before it.
        rounds: limit on how often one CP-SAT program is solved.
        seconds: limit on CP-SAT's deterministic time (its measure of work), each time it solves.
        all_seconds: limit on this time for one program, however often it is solved; in the search
            for the lowest peak, for its two programs together. The last solving may exceed the
            limit by up to `seconds`. 0 turns CP-SAT off.
        halvings: steps of the bisection by minimum cuts that looks for the lowest peak.
        trials: limit on the copies of the choice found whose removal is tried.
        gap: CP-SAT takes a solution for the best one of its program if the solution is within this
            share of the bound that CP-SAT has proven.
        worth: a choice is good enough if its seconds exceed a lower bound for every choice by no
            more than this share of the step's seconds. If not, CP-SAT searches among the copies
            that cuts chose. It takes a solution so near to its own bound for the best one, too.
        much: a larger share of the step's seconds. If a choice exceeds the lower bound by more,
            CP-SAT searches among all copies, which takes far longer.
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


# turns CP-SAT off: a search then takes a second and not a minute
QUICK = Limits(all_seconds=0.0, trials=40)


@dataclass(frozen=True)
class Chosen:
    """The choice of copies that a search returns.

    Attributes:
        copies: the copies.
        peak: the peak of the step with the copies, in program order.
        fits: whether the peak is within the search's limit; always true if it had no limit.
    """

    copies: Copies
    peak: Bytes
    fits: bool


def choose(step: Step, limit: Bytes, limits: Limits | None = None) -> Chosen:
    """Searches for the cheapest copies that keep the step's live bytes within `limit`.

    The live bytes are those of program order.

    Returns:
        The cheapest choice found that fits. If none is found, the choice with the lowest peak
        found, with `fits` set to False: that does not prove that no choice fits.
    """
    limits = limits or Limits()
    hull = Hull(step, limit)
    best = hull.best
    enough = hull.least + limits.worth * step.seconds
    for among, worth in ((hull.copies(), limits.worth), (None, limits.much)):
        most = inf if best is None else best.copies.cost
        # false if it is proven that no choice fits: `least` is inf then
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
    """Removes copies that the limit does not need, and returns the choice that is left.

    Tries to remove each copy of `found` once, the most expensive first. Ends after `trials` copies,
    or when the choice costs `enough` seconds or less. A removal is kept if it saves seconds and the
    peak stays within the limit.
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
    """Searches for the copies with the lowest peak, then for cheaper ones with no higher peak."""
    limits = limits or Limits()
    low = _smallest(step, limits)
    hull = Hull(step, low.peak)
    best = cheaper(low, hull.best)
    assert best is not None
    found = trimmed(best, low.peak, limits.trials)
    return Chosen(found.copies, found.peak, True)


def _smallest(step: Step, limits: Limits, enough: Bytes = 0) -> Curve:
    """Searches for the choice of copies with the lowest peak.

    First bisects for the lowest limit that choices by minimum cuts keep. Returns early if a choice
    has a peak of at most `enough` bytes. Then CP-SAT lowers the peak, as far as its time allows.
    """
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
    """A search by one CP-SAT program. Call `cheapest` or `descend`, once.

    Args:
        step: the step.
        limits: limits on the search.
        hint: a choice to begin with.
        among: the only copies that may be chosen; None for all within `Limits.reach`.

    Attributes:
        hint: the choice that CP-SAT tries first: the one given, then the latest solution.
        program: the CP-SAT program. It has a row, which limits the live bytes, for each moment at
            which a choice was above the limit.
        extra: by moment with a row, the bytes added to the row because the program counted too few.
        left: what is left of `Limits.all_seconds`.
        seen: the live curve without copies. Its worst moments get the first rows.
        low: the choice found with the lowest peak.
    """

    def __init__(self, step: Step, limits: Limits, hint: Choice, among: Choice | None) -> None:
        self.step, self.limits, self.hint = step, limits, hint
        reach = limits.reach if among is None else len(step.problem.ops)
        self.program = Program(Reach(step, reach, among))
        self.extra: dict[Moment, Bytes] = {}
        self.left = self.limits.all_seconds
        self.is_proven = False  # latest solution is the program's best, up to `gap` or `worth`
        self.seen = self.low = Curve.of(Copies.of(step, frozenset()))

    def cheapest(self, limit: Bytes) -> Curve | None:
        """Returns the cheapest choice found whose peak is within `limit`; None if none is found."""
        if self.low.peak <= limit:
            return self.low
        for moment, _ in self._worst(self.seen, limit):
            self._add(moment, 0)
        program = self.program
        program.model.add(program.most <= limit)
        program.model.minimize(program.seconds())
        best: Curve | None = None
        worth = self.limits.worth * self.step.seconds / NANOSECOND
        for _ in range(self.limits.rounds):
            solver = self._solve(worth)
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
        """Searches for the choice with the lowest peak, and keeps it in `low`.

        Ends when the true peak of a solution is no higher than the program says. Ends earlier if
        CP-SAT finds no solution, or if the rounds or CP-SAT's time are used up.
        """
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

    def _solve(self, worth: float = 0.0) -> cp_model.CpSolver | None:
        """Solves the program. Returns the solver; None if it has no solution or no time is left.

        worth: CP-SAT ends at a solution that is at most this far above its own bound, in the unit
            of the objective: nanoseconds in `cheapest`, bytes in `descend`.
        """
        if self.left <= 0:
            return None
        self.program.hint(self.hint)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.linearization_level = 2  # at lower levels CP-SAT's bound is 0
        solver.parameters.relative_gap_limit = self.limits.gap
        solver.parameters.absolute_gap_limit = worth
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
        """Yields (moment, live bytes) for the worst moment of the forward and of each segment.

        Leaves out the forward, or a segment, if its live bytes are within `limit` at all moments.
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
