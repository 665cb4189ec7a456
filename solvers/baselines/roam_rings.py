"""ROAM's rings (arXiv 2310.19295): cut where the memory does not depend on the order, and solve.

    ── a ──┬── b ──┬── d ── key ── ...      a key point is comparable with every op of the spine:
           └── c ──┘                        the ops between two of them are ordered by themselves

A ring is a segment of the forward with the segment of the backward that mirrors it. What the one
saves for the other is the same under any order, so the two halves are solved apart. The rule for
weight updates is set by hand: what leads to one gradient, update or running statistic and nowhere
else hangs off the spine and does not count as a branch there; it runs within the first segment in
which everything that it needs is there.

The segments lie side by side: there is no tree of tasks here, one of more than NODES ops is just
cut into pieces of program order. Each is solved by MODeL's program (modelilp.py) with an equal
share of the time that is left. Written from the paper's description: the authors solve other
programs, by another solver.
"""

from __future__ import annotations

import time

from roam.core.problem import Home, Kind, OpId, Problem
from roam.solvers.baselines.modelilp import Part, solve

NODES = 60  # ops that one program may have
SEVERAL = -1  # leads to several gradients, updates or statistics, or elsewhere


def roam_rings(problem: Problem, phase: int, seconds: float = 10.0) -> list[OpId]:
    """Every segment in turn; no later than `seconds`, but for the building of the last model."""
    deadline = time.monotonic() + seconds
    first = problem.phases[phase][0] if problem.phases[phase] else 0
    done = set(range(first))
    order: list[OpId] = []
    waiting = [piece for ops in segments(problem, phase) for piece in _pieces(ops)]
    for k, ops in enumerate(waiting):
        share = (deadline - time.monotonic()) / (len(waiting) - k)
        order += solve(Part(problem, ops, done), share).found
        done.update(ops)
    return order


def _pieces(ops: list[OpId]) -> list[list[OpId]]:
    """As few as there can be, of about the same size."""
    n = -(-len(ops) // NODES)
    return [ops[len(ops) * k // n : len(ops) * (k + 1) // n] for k in range(n)]


def segments(problem: Problem, phase: int) -> list[list[OpId]]:
    """The ops between the key points, each key point with the ops that follow it.

    In program order, as are the ops of each. Together they are the phase.
    """
    ops = problem.phases[phase]
    spine = _spine(problem, phase)
    number = 0
    keys = set(key_points(problem, spine))
    on_spine = set(spine)
    segment: dict[OpId, int] = {}
    for i in ops:
        if i in keys:
            number += 1
        if i in on_spine:
            segment[i] = number
        else:
            before = (segment[p] for p in problem.predecessors[i] if p in segment)
            segment[i] = max(before, default=0)
    found: list[list[OpId]] = [[] for _ in range(number + 1)]
    for i in ops:
        found[segment[i]].append(i)
    return [part for part in found if part]


def key_points(problem: Problem, ops: list[OpId]) -> list[OpId]:
    """Those of some ops, in a valid order, that are ancestor or descendant of every other.

    The op at place k is one if nothing jumps over it: every op before has a successor up to k,
    and every op after a predecessor from k on. Linear in ops and edges.
    """
    place = {i: k for k, i in enumerate(ops)}
    n = len(ops)
    nearest_after = [
        min((place[s] for s in problem.successors[i] if s in place), default=n) for i in ops
    ]
    nearest_before = [
        max((place[p] for p in problem.predecessors[i] if p in place), default=-1) for i in ops
    ]
    farthest = [-1] * (n + 1)  # farthest[k]: where the last of the ops before k is first needed
    for k in range(n):
        farthest[k + 1] = max(farthest[k], nearest_after[k])
    lowest = [n] * (n + 1)  # lowest[k]: the earliest of the last needs of the ops from k on
    for k in reversed(range(n)):
        lowest[k] = min(lowest[k + 1], nearest_before[k])
    return [ops[k] for k in range(n) if farthest[k] <= k <= lowest[k + 1]]


def _spine(problem: Problem, phase: int) -> list[OpId]:
    """The ops that do not hang off as the branch of one gradient, update or statistic."""
    leads_to: dict[OpId, int] = {}
    for i in reversed(problem.phases[phase]):
        after = {leads_to[s] for s in problem.successors[i] if s in leads_to}
        if _ends_a_branch(problem, i):
            after.add(i)
        leads_to[i] = after.pop() if len(after) == 1 else SEVERAL
    return [i for i in problem.phases[phase] if leads_to[i] == SEVERAL]


def _ends_a_branch(problem: Problem, i: OpId) -> bool:
    """Whether an op makes a parameter's gradient for the user, or changes what is the user's."""
    op = problem.ops[i]
    made = (problem.buffers[b].kind for b in op.creates)
    return Kind.GRADIENT in made or any(problem.buffers[b].home is Home.USER for b in op.mutates)
