"""MODeL's integer program for the order of ops (arXiv 2210.12924, section 3.2).

One op runs at each timestep t. The variables are 0 or 1:

    C[i, t]    1 if op i runs at timestep t, and creates its buffers
    P[b, t]    1 if buffer b was created before timestep t and is still held at t

The program minimizes the peak, which is the largest value over all t of

    Σ size(b) C[maker(b), t] + Σ size(b) P[b, t] + scratch space of the op that runs at t

Like the published program, it does not model that an op may write its result over a dying buffer.
The longest paths to and from an op limit the timesteps at which the op may run. The solver starts
from program order. The size of the integer program is quadratic in the number of ops.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ortools.sat.python import cp_model

from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.answer import Answer, Outcome, minimized

# limit on the variables of the integer program: to build a larger program takes many gigabytes
LARGEST = 100_000
Linear = cp_model.LinearExpr | int
UNIT = 512  # bytes in a unit of size in the integer program: sums of single bytes would overflow
MOST = UNIT * 2**53  # upper bound on the peak of every order, in bytes


@dataclass(frozen=True)
class Part:
    """Ops of one phase that are ordered by one integer program.

    Attributes:
        problem: the Problem that has the phase.
        ops: the ops to order, in program order.
        done: the ops that run before `ops`. All other ops of the Problem run after `ops`.
    """

    problem: Problem
    ops: Sequence[OpId]
    done: Collection[OpId] = ()

    @cached_property
    def place(self) -> dict[OpId, int]:
        return {i: k for k, i in enumerate(self.ops)}

    @cached_property
    def first(self) -> dict[OpId, int]:
        """By op, the earliest timestep that the longest path of ops before the op allows."""
        first = dict.fromkeys(self.ops, 0)
        for i in self.ops:
            for s in self.problem.successors[i]:
                if s in first:
                    first[s] = max(first[s], first[i] + 1)
        return first

    @cached_property
    def last(self) -> dict[OpId, int]:
        """By op, the latest timestep that the longest path of ops after the op allows."""
        last = dict.fromkeys(self.ops, len(self.ops) - 1)
        for i in reversed(self.ops):
            for p in self.problem.predecessors[i]:
                if p in last:
                    last[p] = min(last[p], last[i] - 1)
        return last

    @cached_property
    def buffers(self) -> list[BufferId]:
        """The buffers that the part's ops create, read or change, without persistent buffers."""
        used = dict.fromkeys(b for i in self.ops for b in self.problem.ops[i].touches)
        return [b for b in used if self.problem.buffers[b].home is not Home.USER]

    def outlives(self, b: BufferId) -> bool:
        """Returns whether a buffer is still alive when all ops of the part have run."""
        later = (u for u in self.problem.users[b] if u not in self.place and u not in self.done)
        return self.problem.buffers[b].kept or any(True for _ in later)

    @property
    def size(self) -> int:
        """The approximate number of variables of the integer program."""
        windows = sum(self.last[i] - self.first[i] + 1 for i in self.ops)
        return windows + len(self.buffers) * (len(self.ops) + 1)


def modelilp(problem: Problem, phase: int, seconds: float = 10.0) -> list[OpId]:
    """Returns the best order of a phase that the solver finds in `seconds` seconds.

    The time to build the integer program is not counted. Returns program order if the integer
    program is too large, or if no order is found in time.
    """
    part = Part(problem, problem.phases[phase], range(_first(problem, phase)))
    return solve(part, seconds).found


def _first(problem: Problem, phase: int) -> OpId:
    return problem.phases[phase][0] if problem.phases[phase] else 0


def solve(part: Part, seconds: float, workers: int = 2) -> Answer[list[OpId]]:
    """Searches for the order with the lowest peak of a part of a phase.

    The peak and the bound returned are those of the integer program, which rounds sizes up and
    writes no result over a dying buffer. So the true lowest peak may be below the bound.

    Args:
        part: the ops to order.
        seconds: the time limit of the solver.
        workers: the number of the solver's threads.

    Returns:
        The best order found, its peak and a lower bound on the peak, in bytes. `Answer.work` counts
        branches of the solver's search tree. If the solver finds no order or does not run, returns
        program order, with MOST for the peak and 0 for the bound. The solver does not run if the
        part has fewer than two ops, if the integer program would have more than LARGEST variables,
        or if `seconds` is 0 or less. With fewer than two ops, the status is OPTIMAL; otherwise,
        program order without a search is FEASIBLE.
    """
    as_it_is = Answer(list(part.ops), MOST, 0, Outcome.FEASIBLE, 0)
    if len(part.ops) < 2:
        return replace(as_it_is, status=Outcome.OPTIMAL)
    if seconds <= 0 or part.size > LARGEST:
        return as_it_is
    ilp = _Ilp(part)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 0
    status = solver.solve(ilp.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return as_it_is
    peak, bound = round(solver.objective_value), round(solver.best_objective_bound)
    return minimized(ilp.order(solver), peak * UNIT, bound * UNIT, solver.num_branches)


class _Ilp:
    """The integer program that orders a part of a phase.

    Each method that is named after a rule, such as `one_op_at_a_time`, adds constraints that
    enforce the rule.

    Attributes:
        runs: (op, timestep) -> the variable that is 1 if the op runs then. Contains only the
            timesteps at which the op may run.
        held: (buffer, timestep) -> the variable that is 1 if the buffer was created before this
            timestep and is still held. Contains also the timestep after the last op.
        peak: the variable that is minimized: the most bytes at one timestep, in units of UNIT
            bytes.
    """

    def __init__(self, part: Part) -> None:
        self.part, self.problem, self.n = part, part.problem, len(part.ops)
        self.model = cp_model.CpModel()
        new = self.model.new_bool_var
        self.runs = {
            (i, t): new(f"C_{i}_{t}")
            for i in part.ops
            for t in range(part.first[i], part.last[i] + 1)
        }
        self.held = {(b, t): new(f"P_{b}_{t}") for b in part.buffers for t in range(self.n + 1)}
        self.peak = self.model.new_int_var(0, MOST // UNIT, "peak")
        self.every_op_runs_once()
        self.one_op_at_a_time()
        self.what_is_held_was_held_or_made()
        self.what_is_used_is_held()
        self.what_others_need_is_held_at_the_end()
        self.order_holds()
        self.peak_is_the_highest()
        self.begin_with_program_order()
        self.model.minimize(self.peak)

    def at(self, i: OpId | None, t: int) -> Linear:
        return self.runs.get((i, t), 0) if i is not None else 0

    def every_op_runs_once(self) -> None:
        for i in self.part.ops:
            window = range(self.part.first[i], self.part.last[i] + 1)
            self.model.add_exactly_one(self.runs[i, t] for t in window)

    def one_op_at_a_time(self) -> None:
        for t in range(self.n):
            self.model.add_exactly_one(c for (_, s), c in self.runs.items() if s == t)

    def what_is_held_was_held_or_made(self) -> None:
        for b in self.part.buffers:
            maker = self.problem.maker[b]
            if maker in self.part.place:
                self.model.add(self.held[b, 0] == 0)
            for t in range(1, self.n + 1):
                before = self.held[b, t - 1] + self.at(maker, t - 1)
                self.model.add(self.held[b, t] <= before)

    def what_is_used_is_held(self) -> None:
        for i in self.part.ops:
            op = self.problem.ops[i]
            for b in {*op.reads, *op.mutates}.intersection(self.part.buffers):
                for t in range(self.part.first[i], self.part.last[i] + 1):
                    self.model.add_implication(self.runs[i, t], self.held[b, t])

    def what_others_need_is_held_at_the_end(self) -> None:
        for b in self.part.buffers:
            if self.part.outlives(b):
                self.model.add(self.held[b, self.n] == 1)

    def order_holds(self) -> None:
        """Makes each op run after those of its predecessors that create no buffer that it uses.

        `what_is_used_is_held` makes the op run after its other predecessors.
        """
        for i in self.part.ops:
            op = self.problem.ops[i]
            makers = {self.problem.maker[b] for b in (*op.reads, *op.mutates)}
            for p in self.problem.predecessors[i]:
                if p in self.part.place and p not in makers:
                    self.model.add(self._time(p) + 1 <= self._time(i))

    def _time(self, i: OpId) -> Linear:
        window = range(self.part.first[i], self.part.last[i] + 1)
        return sum(t * self.runs[i, t] for t in window)

    def peak_is_the_highest(self) -> None:
        problem = self.problem
        sizes = {b: _units(problem.buffers[b].size) for b in self.part.buffers}
        made = {
            i: sum(sizes.get(b, 0) for b in problem.ops[i].creates) + _units(problem.ops[i].scratch)
            for i in self.part.ops
        }
        for t in range(self.n):
            held = sum(size * self.held[b, t] for b, size in sizes.items())
            making = sum(size * self.at(i, t) for i, size in made.items() if size)
            self.model.add(held + making <= self.peak)

    def begin_with_program_order(self) -> None:
        """Gives the solver a hint: program order, with each buffer held up to its last use."""
        for (i, t), c in self.runs.items():
            self.model.add_hint(c, t == self.part.place[i])
        for b in self.part.buffers:
            maker = self.problem.maker[b]
            made = self.part.place[maker] + 1 if maker in self.part.place else 0
            used = [self.part.place[u] for u in self.problem.users[b] if u in self.part.place]
            end = self.n if self.part.outlives(b) else max(used, default=-1)
            for t in range(self.n + 1):
                self.model.add_hint(self.held[b, t], made <= t <= end)

    def order(self, solver: cp_model.CpSolver) -> list[OpId]:
        when = {i: t for (i, t), c in self.runs.items() if solver.boolean_value(c)}
        return sorted(when, key=when.__getitem__)


def _units(size: int) -> int:
    return -(-size // UNIT)
