"""The worst moment of a step of several graphs, as a model with graph breaks has them.

    forward 1 ── forward 2 ── forward 3 ── backward 3 ── backward 2 ── backward 1
                     │                                       │
           what graph 1 has saved           that, and what graph 3 leaves: its gradients

The graphs of a step are nested: while one runs, those before it hold what they saved, and once it
runs backward, those after it hold what they leave to the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from roam.core.plan import Plan, committed_curve
from roam.core.problem import Problem
from roam.inspect.moment import Held, held_at, held_before

Planned = tuple[Problem, Plan]


def held_at_worst(graphs: Sequence[Planned]) -> list[Held]:
    """What a step holds at a moment at which it holds most.

    graphs: in the order in which their forwards run, each once.
    """
    moments = ((i, *m) for i in range(len(graphs)) for m in _worst_moments(graphs, i))
    worst = max(moments, key=itemgetter(-1), default=None)
    if worst is None:
        return []
    i, t, others, _ = worst
    return [*held_at(*graphs[i], t), *others]


def _worst_moments(graphs: Sequence[Planned], i: int) -> Iterator[tuple[int, list[Held], int]]:
    """Of a graph's forward and of its backward: when, what the others hold then, bytes in all."""
    problem, plan = graphs[i]
    curve = committed_curve(problem, plan.order, plan.reuse, plan.offsets, plan.blocks)
    turn, end = _turn(problem, plan), len(plan.order)
    saved = [held for p, q in graphs[:i] for held in held_before(p, q, _turn(p, q))]
    left = [held for p, q in graphs[i + 1 :] for held in held_before(p, q, len(q.order))]
    for times, others in ((range(turn), saved), (range(turn, end), saved + left)):
        if times:
            t = max(times, key=curve.__getitem__)
            yield t, others, curve[t] + sum(held.size for held in others)


def _turn(problem: Problem, plan: Plan) -> int:
    """When the backward begins: at the end of the order where there is none."""
    phases = (problem.ops[i].phase for i in plan.order)
    return next((t for t, phase in enumerate(phases) if phase), len(plan.order))
