"""Finds the lifetime of every gradient: from the op that makes it to the fold that absorbs it."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.lifetime import lifetimes
from roam.core.plan import Plan
from roam.core.problem import Kind, Problem


@dataclass(frozen=True)
class GradientLife:
    """The lifetime of one gradient.

    Attributes:
        name: of the gradient's buffer.
        size: bytes.
        lower, upper: it is alive at the times lower <= t < upper.
        folded_by: the op that absorbs it. None if the user keeps it, to the end of the step.
    """

    name: str
    size: int
    lower: int
    upper: int
    folded_by: str | None = None

    @property
    def ops(self) -> int:
        """The number of ops from production to fold: 1 if the fold is the next op."""
        return self.upper - 1 - self.lower


def gradient_lives(problem: Problem, plan: Plan) -> tuple[GradientLife, ...]:
    """Returns the lifetimes of all gradients of a step, in the order in which they are made."""
    lives = lifetimes(problem, plan.order)
    found = [
        GradientLife(
            buffer.name,
            buffer.size,
            *lives[b],
            None if buffer.kept else problem.ops[plan.order[lives[b][1] - 1]].name,
        )
        for b, buffer in enumerate(problem.buffers)
        if buffer.kind in (Kind.GRADIENT, Kind.RELEASED)
    ]
    return tuple(sorted(found, key=lambda life: (life.lower, life.name)))


def most_alive(lives: tuple[GradientLife, ...]) -> int:
    """Returns the most bytes of gradients that are alive at one time."""
    moments = sorted(
        (t, size) for g in lives for t, size in ((g.lower, g.size), (g.upper, -g.size))
    )
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
