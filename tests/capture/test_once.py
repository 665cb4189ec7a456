"""Which ops no edit may copy: those that draw random numbers or have effects."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

import roam
from roam.core.edits import Recompute, apply
from roam.core.errors import EditError
from roam.core.problem import Problem
from roam.offline import problems
from tests.helpers import random


class Attending(nn.Module):
    def __init__(self, attention: float, after: float) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.attention, self.after = attention, after

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        x = scaled_dot_product_attention(x, x, x, dropout_p=self.attention)
        return dropout(x.exp(), self.after).square().sum()


def once(problem: Problem) -> list[str]:
    return [op.name for op in problem.ops if op.once]


def captured(*rates: float) -> Problem:
    (problem,) = problems(Attending(*rates), random(2, 3, 4, 8))
    return problem


def test_dropout_is_drawn_once() -> None:
    assert once(captured(0.0, 0.0)) == []  # attention without dropout draws nothing
    (drawn,) = once(captured(0.0, 0.5))
    assert "dropout" in drawn or "bernoulli" in drawn or "rand" in drawn


def test_what_draws_is_not_copied() -> None:
    problem = captured(0.0, 0.5)
    (drawn,) = once(problem)
    later = next(op.name for op in reversed(problem.ops) if op.phase == 1)
    with pytest.raises(EditError, match=drawn):
        apply(problem, [Recompute(drawn, readers=(later,))])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_inductors_seeds_are_drawn_once(rate: float) -> None:
    model: Any = Attending(0.0, rate)
    plan = roam.plan(model, random(2, 3, 4, 8), lowering="inductor")
    ((problem, _),) = plan.planned
    assert len(once(problem)) == (rate > 0)
