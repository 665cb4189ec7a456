"""Decides whether a phase has an order within a limit, by CP-SAT: for leaves that others give up.

One Boolean an op and step says whether the op has run before the step:

    step        0  1  2  3
    ran[a]      0  1  1  1      a runs at step 0       each op runs once            (`add_steps`)
    ran[b]      0  0  0  1      b runs at step 2       after those it waits for     (`add_waits`)
    alive[x]    0  1  1  0      a makes x, b reads it  from maker to last user      (`add_buffers`)
    bytes       10 14 14 2      <= limit               live bytes and the op's own  (`add_limit`)

The numbers of an op's ancestors and descendants bound the steps at which it may run: outside of
them its Booleans are constant. This program is stronger than one of start positions, with an
interval for each buffer and a cumulative constraint: on random layered graphs of 20 to 120 ops it
needs between a fifth and four fifths of the deterministic time, for finding orders as for proofs
(one exception in 27).

Counts live bytes as `valleys.py` does: as if every op wrote over all dying buffers that it may ever
write over. So the answer "no" holds with and without such reuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from roam.core.problem import BufferId, OpId, Problem
from roam.solvers.answer import Answer, Outcome
from roam.solvers.order.progress import Phase, Place
from roam.solvers.work import UNITS_A_SECOND, Work

Literals = list[cp_model.IntVar]  # by step; one more than there are ops


@dataclass(frozen=True)
class Limits:
    """Which leaves CP-SAT is asked about, and for how long.

    Attributes:
        variables: the most Booleans of a program; a larger one is not built. Ops by steps, and
            buffers by steps, within the steps that are possible.
        seconds: deterministic seconds that one question may take.
    """

    variables: int = 8_000
    seconds: float = 5.0


# units of work of one of CP-SAT's deterministic seconds; measured
A_SECOND = 2 * UNITS_A_SECOND


def keeps_within(
    problem: Problem,
    phase: int,
    most: int,
    hint: Sequence[OpId] | None = None,
    work: Work | None = None,
    limits: Limits | None = None,
) -> Answer[list[OpId] | None]:
    """Searches for an order of a phase that keeps within `most` bytes.

    Args:
        problem: the Problem whose phase is ordered.
        phase: the index of the phase.
        most: the limit in bytes.
        hint: an order of the phase from which the search starts.
        work: limits the search; unlimited if left out.
        limits: which phases are searched, and for how long; the defaults if left out.

    Returns:
        FITS with the order; DOES_NOT_FIT with the bound `most + 1`; or UNKNOWN, at once if the
        program is too large. `Answer.work` counts deterministic milliseconds.
    """
    work, limits = work or Work(), limits or Limits()
    seen = Phase(problem, phase)
    unknown: Answer[list[OpId] | None] = Answer(None, most, 0, Outcome.UNKNOWN, 0)
    seconds = min(limits.seconds, work.left / A_SECOND)
    if variables(seen) > limits.variables or seconds <= 0 or work.is_late():
        return unknown
    program = Program(seen)
    add_steps(program)
    add_waits(program)
    add_buffers(program)
    add_limit(program, most)
    if hint is not None:
        place = {i: k for k, i in enumerate(seen.ops)}
        add_hint(program, [place[i] for i in hint])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = seconds
    solver.parameters.max_time_in_seconds = max(work.deadline - work.now(), 0)
    status = solver.solve(program.model)
    taken = solver.response_proto.deterministic_time
    work.spend(int(taken * A_SECOND))
    spent = int(1000 * taken)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(program.order(solver), most, 0, Outcome.FITS, spent)
    if status == cp_model.INFEASIBLE:
        return Answer(None, most, most + 1, Outcome.DOES_NOT_FIT, spent)
    work.is_late()  # the plan records if it was the deadline that ended the search
    return Answer(None, most, 0, Outcome.UNKNOWN, spent)


def windows(phase: Phase) -> list[range]:
    """Returns by op the steps at which it may run: after its ancestors, before its descendants."""
    n = len(phase.ops)
    before, after = _reached(phase.before, range(n)), _reached(phase.after, reversed(range(n)))
    return [range(len(before[k]), n - len(after[k])) for k in range(n)]


def _reached(neighbours: Sequence[Sequence[Place]], order: Iterable[Place]) -> list[set[Place]]:
    """Returns by op all ops that it reaches, in an order in which each comes after these."""
    found: list[set[Place]] = [set() for _ in neighbours]
    for k in order:
        found[k].update(neighbours[k], *(found[p] for p in neighbours[k]))
    return found


def variables(phase: Phase) -> int:
    """Returns about how many Booleans the program of a phase has."""
    steps = [len(window) for window in windows(phase)]
    closers = phase.closers.values()
    return sum(steps) + sum(max(map(steps.__getitem__, of)) for of in closers)


class Program:
    """The program of one phase. It is empty at first: each `add_` function adds one family.

    Attributes:
        phase: the ops, as seen from the start of the phase.
        ran: by op, whether it has run before each step.
        alive: by buffer that some op of the phase makes or uses up, whether it is alive when a
            step begins; `add_buffers` fills it.
    """

    def __init__(self, phase: Phase) -> None:
        self.phase, self.model = phase, cp_model.CpModel()
        self.no, self.yes = self.model.new_constant(0), self.model.new_constant(1)
        self.ran = [self._ran(k, window) for k, window in enumerate(windows(phase))]
        self.alive: dict[BufferId, Literals] = {}

    def _ran(self, k: Place, window: range) -> Literals:
        n = len(self.phase.ops)
        free = [self.model.new_bool_var(f"ran {k} before {t}") for t in window[1:]]
        return [self.no] * (window.start + 1) + free + [self.yes] * (n + 1 - window.stop)

    def implies(self, one: cp_model.IntVar, other: cp_model.IntVar) -> None:
        if one is not self.no and other is not self.yes and one is not other:
            self.model.add_implication(one, other)

    def order(self, solver: cp_model.CpSolver) -> list[OpId]:
        """Returns the ops in the order of a solution."""
        steps = [sum(map(solver.boolean_value, ran)) for ran in self.ran]
        places = sorted(range(len(steps)), key=lambda k: -steps[k])
        return [self.phase.ops[k] for k in places]


def add_steps(program: Program) -> None:
    """Adds that one op runs at each step, and that an op that has run stays so."""
    for ran in program.ran:
        for t in range(len(ran) - 1):
            program.implies(ran[t], ran[t + 1])
    for t in range(len(program.ran) + 1):
        program.model.add(cp_model.LinearExpr.sum([ran[t] for ran in program.ran]) == t)


def add_waits(program: Program) -> None:
    """Adds that an op that runs at a step waits for ops that have run before that step."""
    for k, before in enumerate(program.phase.before):
        for p in before:
            for t in range(len(program.ran)):
                program.implies(program.ran[k][t + 1], program.ran[p][t])


def add_buffers(program: Program) -> None:
    """Adds that a buffer is alive if its maker has run and one of its users has not."""
    phase, model = program.phase, program.model
    for b in dict.fromkeys([*phase.openers, *phase.closers]):
        made = program.ran[phase.openers[b][0]] if b in phase.openers else None
        users = [program.ran[k] for k in phase.closers.get(b, [])]
        alive: Literals = []
        for t in range(len(phase.ops)):
            begun = program.yes if made is None else made[t]
            left = [ran[t] for ran in users if ran[t] is not program.yes]
            if begun is program.no or (users and not left):
                alive.append(program.no)
            elif not users or program.no in left:
                alive.append(begun)
            else:
                alive.append(model.new_bool_var(f"alive {b} at {t}"))
                for ran in left:
                    model.add_bool_or([alive[t], ran, begun.negated()])
        program.alive[b] = alive


def add_limit(program: Program, most: int) -> None:
    """Adds that the live bytes at each step, and the op's own, keep within `most` bytes."""
    phase, ran = program.phase, program.ran
    counted = [b for b in phase.closers if b not in phase.openers]  # by `alive`, not by `start`
    constant = phase.start - sum(phase.size[b] for b in counted)
    for t in range(len(phase.ops)):
        alive = [literals[t] for literals in program.alive.values()]
        live = cp_model.LinearExpr.weighted_sum(alive, [phase.size[b] for b in program.alive])
        since = cp_model.LinearExpr.weighted_sum([r[t + 1] for r in ran], phase.own)
        until = cp_model.LinearExpr.weighted_sum([r[t] for r in ran], phase.own)
        program.model.add(constant + live + since - until <= most)


def add_hint(program: Program, order: Sequence[Place]) -> None:
    """Adds an order from which the search starts."""
    for step, k in enumerate(order):
        for t, ran in enumerate(program.ran[k]):
            if ran is not program.no and ran is not program.yes:
                program.model.add_hint(ran, step < t)
