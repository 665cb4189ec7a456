"""Sums of a broadcast value, which become products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from roam.passes.pipeline import run
from roam.passes.rewrites.sums_of_broadcasts import SumsOfBroadcasts
from tests.passes.graphs import printed

ROWS, WORDS = 3, 16_411
FOUND = {
    "left": lambda s, b: (s.expand(ROWS, WORDS) + b).sum(1, True),
    "right": lambda s, b: (b + s.expand(ROWS, WORDS)).sum([1], True),
}
KEPT = {
    "of several dimensions": lambda s, b: (s.expand(ROWS, WORDS) + b).sum([0, 1], True),
    "that drops its dimension": lambda s, b: (s.expand(ROWS, WORDS) + b).sum(1),
    "over another dimension": lambda s, b: (s.expand(ROWS, WORDS) + b).sum(0, True),
    "of scaled operands": lambda s, b: torch.add(s.expand(ROWS, WORDS), b, alpha=2).sum(1, True),
    "of what is not broadcast": lambda s, b: (b + b).sum(1, True),
}
Formula = Callable[[Tensor, Tensor], Tensor]


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    smoothed = torch.full((ROWS, 1), -0.1 / WORDS / 779, dtype=dtype)
    labels = torch.zeros(ROWS, WORDS, dtype=dtype)
    labels[:, 7] = -0.9 / 779
    return smoothed, labels


@pytest.mark.parametrize("name", FOUND)
def test_a_broadcast_operand_is_multiplied(name: str) -> None:
    formula: Formula = FOUND[name]
    s, b = operands()
    module = make_fx(formula, tracing_mode="fake")(s, b)
    run((SumsOfBroadcasts(),), module)
    assert "= mul(s_1, 16411)" in printed(module)
    assert "expand" not in printed(module)
    exact = formula(s.double(), b.double())
    assert torch.allclose(module(s, b).double(), exact, rtol=1e-7)


@pytest.mark.parametrize("name", KEPT)
def test_a_sum_stays(name: str) -> None:
    module = make_fx(KEPT[name], tracing_mode="fake")(*operands())
    before = printed(module)
    run((SumsOfBroadcasts(),), module)
    assert printed(module) == before


def test_half_precision_stays() -> None:
    """Each of the new ops would round."""
    module = make_fx(FOUND["left"], tracing_mode="fake")(*operands(torch.bfloat16))
    assert SumsOfBroadcasts()(module) == 0
