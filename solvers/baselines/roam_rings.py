"""ROAM's rings (arXiv 2310.19295): cuts a phase into segments, and orders each segment by itself.

    ── a ──┬── b ──┬── d ── key ── ...      a key point is an ancestor or descendant of every op of
           └── c ──┘                        the spine: the ops between two key points are a segment

A ring is a segment of the forward together with its mirror segment of the backward. Whatever the
order, the forward segment saves the same tensors for the backward segment. So the two segments of a
ring are solved separately.

A branch is the ops that lead to one gradient, weight update or running statistic and to nothing
else. The spine of a phase is its ops outside of branches. Each op of a branch runs in the first
segment in which all its inputs exist. The paper has no such rule for weight updates.

A segment of more ops than the limit NODES is cut, in program order, into pieces within the limit;
there is no tree of tasks as in the paper. Each piece is solved by MODeL's integer program
(`modelilp.py`), in an equal share of the time that is left. Written from the paper's description:
the authors solve other integer programs, with another solver.
"""

from __future__ import annotations

import time

from roam.core.problem import Home, Kind, OpId, Problem
from roam.solvers.baselines.modelilp import Part, solve

NODES = 60  # limit on the ops of one integer program
# in `_spine`, stands in place of the op that ends a branch, for an op that belongs to no branch: it
# leads to no gradient, weight update or running statistic, or to one and to something else
SEVERAL = -1


def roam_rings(problem: Problem, phase: int, seconds: float = 10.0) -> list[OpId]:
    """Returns an order of a phase, cut into pieces each of which an integer program has ordered.

    A piece is at most NODES ops that follow one another in a segment. The pieces run in the order
    in which `segments` lists their ops. A piece stays in program order if the integer program finds
    no order of it in its share of the time. Takes about `seconds` seconds, plus the time to build
    the last integer program.
    """
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
    """Cuts ops into as few pieces of at most NODES ops as possible, of about equal size."""
    n = -(-len(ops) // NODES)
    return [ops[len(ops) * k // n : len(ops) * (k + 1) // n] for k in range(n)]


def segments(problem: Problem, phase: int) -> list[list[OpId]]:
    """Cuts a phase into segments at its key points. Each key point begins a segment.

    A branch is the ops that lead to one gradient, weight update or running statistic, and to
    nothing else. A key point is an op that is an ancestor or descendant of every other op outside
    of branches. An op of a branch belongs to the last of the segments of its predecessors. The
    segments, and the ops in each segment, are in program order.
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
    """Returns the key points of `ops`: those that are an ancestor or a descendant of all other ops.

    The op at place k of `ops` is a key point if every op before it has a successor at a place up to
    k, and every op after it has a predecessor at place k or later. The time that this function
    takes is linear in the number of ops and dependencies.

    Args:
        problem: the Problem with the dependencies.
        ops: the ops to look at, in an order that respects the dependencies.
    """
    place = {i: k for k, i in enumerate(ops)}
    n = len(ops)
    nearest_after = [
        min((place[s] for s in problem.successors[i] if s in place), default=n) for i in ops
    ]
    nearest_before = [
        max((place[p] for p in problem.predecessors[i] if p in place), default=-1) for i in ops
    ]
    # at k: the greatest place, over all ops before place k, of the op's earliest successor
    farthest = [-1] * (n + 1)
    for k in range(n):
        farthest[k + 1] = max(farthest[k], nearest_after[k])
    # at k: the least place, over all ops from place k on, of the op's latest predecessor
    lowest = [n] * (n + 1)
    for k in reversed(range(n)):
        lowest[k] = min(lowest[k + 1], nearest_before[k])
    return [ops[k] for k in range(n) if farthest[k] <= k <= lowest[k + 1]]


def _spine(problem: Problem, phase: int) -> list[OpId]:
    """Returns the ops of a phase that belong to no branch.

    A branch is the ops that lead to one gradient, weight update or running statistic, and to
    nothing else.
    """
    leads_to: dict[OpId, int] = {}
    for i in reversed(problem.phases[phase]):
        after = {leads_to[s] for s in problem.successors[i] if s in leads_to}
        if _ends_a_branch(problem, i):
            after.add(i)
        leads_to[i] = after.pop() if len(after) == 1 else SEVERAL
    return [i for i in problem.phases[phase] if leads_to[i] == SEVERAL]


def _ends_a_branch(problem: Problem, i: OpId) -> bool:
    """Returns whether an op creates a gradient for the user or changes a persistent buffer."""
    op = problem.ops[i]
    made = (problem.buffers[b].kind for b in op.creates)
    return Kind.GRADIENT in made or any(problem.buffers[b].home is Home.USER for b in op.mutates)
