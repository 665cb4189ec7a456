"""Exports the buffers of a plan's arena for MiniMalloc: a CSV of id, lower, upper, size.

The format is that of github.com/google/minimalloc, README, "How to use"; its times are half open
too.
"""

from __future__ import annotations

import csv
import io

from roam.core.lifetime import slots
from roam.core.plan import Plan
from roam.core.problem import Home, Problem


def to_minimalloc(problem: Problem, plan: Plan) -> bytes:
    """Returns the CSV: a row for every slot that may lie in the arena, placed there or not.

    A chain of buffers that are written over one another is one row, named by its first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "lower", "upper", "size"))
    for slot in slots(problem, plan.order, plan.reuse):
        if slot.home is Home.ARENA and slot.size:
            name = problem.buffers[slot.buffers[0]].name
            writer.writerow((name, slot.lower, slot.upper, slot.size))
    return text.getvalue().encode()
