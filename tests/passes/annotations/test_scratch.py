"""Stated scratch space against what the profiler sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from roam.inspect.measure import measure_peak
from roam.passes.annotations.out_variants import find
from roam.passes.annotations.scratch import scratch
from roam.passes.rewrites import cross_entropy_backward
from tests.passes.graphs import garbage, node_of

aten = torch.ops.aten
N = 64


def fractions(*shape: int) -> Tensor:
    return torch.rand(shape or (N, N)) + 0.5


def halves() -> Tensor:
    return fractions().bfloat16()


def wholes(*shape: int) -> Tensor:
    return torch.randint(1, 5, shape or (N, N))


def truths() -> Tensor:
    return torch.rand(N, N) > 0.5


Case = tuple[Any, tuple[Any, ...], int]
CASES: dict[str, Callable[[], Case]] = {
    "one type": lambda: (aten.add.Tensor, (fractions(), fractions()), 0),
    "one operand": lambda: (aten.exp.default, (fractions(),), 0),
    "the half is widened": lambda: (aten.add.Tensor, (fractions(), halves()), N * N * 4),
    "the first is the half": lambda: (aten.mul.Tensor, (halves(), fractions(N)), N * N * 4),
    "a row is widened": lambda: (aten.add.Tensor, (fractions(), wholes(N)), N * 4),
    "a mask times numbers": lambda: (aten.mul.Tensor, (fractions(), truths()), N * N * 4),
    "to doubles": lambda: (aten.add.Tensor, (fractions().double(), fractions()), N * N * 8),
    "roots of whole numbers": lambda: (aten.sqrt.default, (wholes(),), N * N * 4),
    "both are divided": lambda: (aten.div.Tensor, (wholes(), wholes()), 2 * N * N * 4),
    "a mask counts": lambda: (aten.mul.Scalar, (truths(), 2), N * N * 8),
    "a comparison": lambda: (aten.gt.Tensor, (fractions(), wholes()), N * N * 4),
    "masks alone": lambda: (aten.logical_and.default, (truths(), truths()), 0),
    "where reads its mask": lambda: (aten.where.self, (truths(), fractions(), fractions()), 0),
    "where, and a half": lambda: (aten.where.self, (truths(), halves(), fractions()), N * N * 4),
    "masked_fill": lambda: (aten.masked_fill.Scalar, (fractions(), truths(), 1.0), 0),
    "not elementwise": lambda: (aten.mm.default, (fractions(), fractions()), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_stated_and_measured(name: str) -> None:
    op, args, expected = CASES[name]()
    result = op(*args)
    node = node_of(op, args, {}, result)
    variant = find(node)
    assert variant is not None
    out = {variant.names[0]: garbage(result)}
    measured = measure_peak(lambda: variant.target(*args, **out)).peak
    assert scratch(node) == expected
    assert expected <= measured <= expected + 16  # a Python number on the way to a tensor


def test_one_number_is_not_counted() -> None:
    args = fractions(), torch.tensor(2, dtype=torch.int64)
    assert scratch(node_of(aten.add.Tensor, args, {}, fractions())) == 0


def test_a_block_of_cross_entropy() -> None:
    log_probs, target, one = fractions(), wholes(N), torch.tensor(1.0)
    args = one, log_probs, target, None, 1, -100, one, 1, torch.float32
    node = node_of(cross_entropy_backward.OP, args, {}, log_probs)
    assert scratch(node) == cross_entropy_backward.block_bytes(log_probs) == N * N * 4


def test_other_devices_are_not_guessed_at() -> None:
    args = fractions().to("meta"), halves().to("meta")
    assert scratch(node_of(aten.add.Tensor, args, {}, args[0])) == 0
