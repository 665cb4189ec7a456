"""The orders of other planners, to compare with: functions `(problem, phase) -> the phase's ops`.

HEURISTICS are fast. PROGRAMS are integer programs, with a time limit for each phase.
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
    """An order solver that stops after so many seconds."""

    def __call__(self, problem: Problem, phase: int, seconds: float = ...) -> list[OpId]: ...


PROGRAMS: dict[str, ProgramSolver] = {
    "modelilp": modelilp,
    "roam rings": roam_rings,
}
