"""LESCEA's greedy: of the ready ops, the one after which the least memory is in use.

As ROAM describes it (arXiv 2310.19295, section 5.1, where LESCEA+LLFB is the heuristic baseline).
A draw goes to program order.
"""

from __future__ import annotations

from roam.core.problem import OpId, Problem
from roam.solvers.baselines.list_schedule import schedule


def lescea(problem: Problem, phase: int) -> list[OpId]:
    return schedule(problem, phase, lambda state, i: (state.made[i] - state.freed[i], i))
