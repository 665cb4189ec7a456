"""The orders that other planners choose, to compare roam's orders with.

Each planner is a function `(problem, phase) -> the ops of the phase, in order`. The planners in
HEURISTICS are fast. The planners in PROGRAMS solve integer programs, and take a time limit in
seconds for each phase. `plain_annealing` is in neither table: no other planner uses it, and roam's
own annealing is compared with it.
"""

from __future__ import annotations

from typing import Protocol

from roam.core.problem import OpId, Problem
from roam.solvers.baselines.inductor import bfs, dfs, lpmf
from roam.solvers.baselines.lescea import lescea
from roam.solvers.baselines.modelilp import modelilp
from roam.solvers.baselines.roam_rings import roam_rings
from roam.solvers.order.greedy import OrderSolver, program_order

HEURISTICS: dict[str, OrderSolver] = {
    "program": program_order,
    "lpmf": lpmf,
    "bfs": bfs,
    "dfs": dfs,
    "lescea": lescea,
}


class ProgramSolver(Protocol):
    """A function that orders a phase by integer programs, in about `seconds` seconds."""

    def __call__(self, problem: Problem, phase: int, seconds: float = ...) -> list[OpId]: ...


PROGRAMS: dict[str, ProgramSolver] = {
    "modelilp": modelilp,
    "roam rings": roam_rings,
}
