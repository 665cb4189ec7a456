"""ROAM's rings (arXiv 2310.19295): cuts a phase into segments, and orders each by itself.

    ── a ──┬── b ──┬── d ── key ── ...      a key point is an ancestor or descendant of every op of
           └── c ──┘                        the spine: the ops between two key points are a segment

A ring is a segment of the forward with its mirror segment of the backward. The tensors that one
saves for the other are the same under any order, so the two are solved separately.

The spine leaves out branches: ops that lead to one gradient, update or running statistic and to
nothing else. A branch runs in the first segment in which all its inputs exist. This rule for weight
updates is ours.

A segment of more than NODES ops is cut into pieces of program order; there is no tree of tasks as
in the paper. Each piece is solved by MODeL's program (modelilp.py), with an equal share of the time
that is left. Written from the paper's description: the authors solve other programs, by another
solver.
"""

from __future__ import annotations

import time

from roam.core.problem import Home, Kind, OpId, Problem
from roam.solvers.baselines.modelilp import Part, solve

NODES = 60  # ops that one program may have
SEVERAL = -1  # an op that leads to several gradients, updates or statistics, or to other ops


def roam_rings(problem: Problem, phase: int, seconds: float = 10.0) -> list[OpId]:
    """Orders one segment after another, in `seconds` and the time to build the last model."""
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
    """Cuts ops into as few pieces of at most NODES as possible, of about the same size."""
    n = -(-len(ops) // NODES)
    return [ops[len(ops) * k // n : len(ops) * (k + 1) // n] for k in range(n)]


def segments(problem: Problem, phase: int) -> list[list[OpId]]:
    """Cuts a phase at its key points. Each key point is in the segment that it begins.

    Segments, and the ops in each, are in program order.
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
    """Returns the ops, of `ops` in a valid order, that are ancestor or descendant of every other.

    The op at place k is one if no dependency passes it: every op before it has a successor at a
    place up to k, and every op after it a predecessor at a place from k on. Linear in ops and
    edges.
    """
    place = {i: k for k, i in enumerate(ops)}
    n = len(ops)
    nearest_after = [
        min((place[s] for s in problem.successors[i] if s in place), default=n) for i in ops
    ]
    nearest_before = [
        max((place[p] for p in problem.predecessors[i] if p in place), default=-1) for i in ops
    ]
    farthest = [-1] * (n + 1)  # farthest[k]: the latest place of a first successor of ops before k
    for k in range(n):
        farthest[k + 1] = max(farthest[k], nearest_after[k])
    lowest = [n] * (n + 1)  # lowest[k]: the earliest place of a last predecessor of ops from k on
    for k in reversed(range(n)):
        lowest[k] = min(lowest[k + 1], nearest_before[k])
    return [ops[k] for k in range(n) if farthest[k] <= k <= lowest[k + 1]]


def _spine(problem: Problem, phase: int) -> list[OpId]:
    """Returns the ops that are no branch to one gradient, update or statistic."""
    leads_to: dict[OpId, int] = {}
    for i in reversed(problem.phases[phase]):
        after = {leads_to[s] for s in problem.successors[i] if s in leads_to}
        if _ends_a_branch(problem, i):
            after.add(i)
        leads_to[i] = after.pop() if len(after) == 1 else SEVERAL
    return [i for i in problem.phases[phase] if leads_to[i] == SEVERAL]


def _ends_a_branch(problem: Problem, i: OpId) -> bool:
    """Returns whether an op makes a kept gradient, or changes one of the user's buffers."""
    op = problem.ops[i]
    made = (problem.buffers[b].kind for b in op.creates)
    return Kind.GRADIENT in made or any(problem.buffers[b].home is Home.USER for b in op.mutates)
