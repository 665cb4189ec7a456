"""LESCEA's greedy rule: runs the ready op after which the least memory is in use.

Written from ROAM's description (arXiv 2310.19295, section 5.1, where LESCEA+LLFB is the heuristic
baseline). If several ops leave equally few bytes in use, runs the first of them in program order.
"""

from __future__ import annotations

from roam.core.problem import OpId, Problem
from roam.solvers.baselines.list_schedule import schedule


def lescea(problem: Problem, phase: int) -> list[OpId]:
    return schedule(problem, phase, lambda state, i: (state.made[i] - state.freed[i], i))
