"""LESCEA's greedy rule: always runs the ready op after which the fewest bytes are in use.

An op is ready if its predecessors have run. If several ready ops leave equally few bytes in use,
runs the first of these in program order. Written from the description in the paper on ROAM (arXiv
2310.19295, section 5.1, where LESCEA+LLFB is the heuristic baseline).
"""

from __future__ import annotations

from roam.core.problem import OpId, Problem
from roam.solvers.baselines.list_schedule import schedule


def lescea(problem: Problem, phase: int) -> list[OpId]:
    return schedule(problem, phase, lambda state, i: (state.made[i] - state.freed[i], i))
