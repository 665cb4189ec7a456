"""Sums of matrix products in the code that Inductor generates: in place if nothing else reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

import roam
from roam.passes.add_mm import OP
from tests.helpers import fused, random

pytestmark = pytest.mark.usefixtures("shared_kernels")
ROWS, COLUMNS, INNER = 96, 160, 16
SUM = ROWS * COLUMNS * 4  # bytes


def in_turn(a: Tensor, b: Tensor) -> Tensor:
    """The product in blocks of its inner dim, summed in one buffer."""
    acc = a[:, :4] @ b[:4]
    for k in range(4, INNER, 4):
        acc = OP(acc, a[:, k : k + 4], b[k : k + 4])
    return acc


def from_zeros(a: Tensor, b: Tensor) -> Tensor:
    return OP(a.new_zeros(ROWS, COLUMNS), a, b)


def transposed(a: Tensor, b: Tensor) -> Tensor:
    return OP((b.t() @ a.t()).t(), a, b)


def read_later(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    acc = a @ b
    return OP(acc, a, b), acc


def view_read_later(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    acc = a @ b
    return OP(acc, a, b), acc.t()[3:].amax()


def expanded(a: Tensor, b: Tensor) -> Tensor:
    return OP(b.sum(0).expand(ROWS, COLUMNS), a, b)


@pytest.mark.parametrize(
    ("fn", "sums", "cpp_wrapper"),
    [
        (in_turn, 1, False),
        pytest.param(in_turn, 1, True, marks=pytest.mark.slow),  # C++ takes long to compile
        (from_zeros, 1, False),
        (transposed, 1, False),
        (read_later, 2, False),
        (view_read_later, 2, False),
        (expanded, 1, False),
    ],
)
def test_in_place_if_nothing_reads_the_accumulator_later(
    fn: Callable[..., Any], sums: int, cpp_wrapper: bool
) -> None:
    a, b = random(ROWS, INNER), random(INNER, COLUMNS)
    with torch.no_grad(), torch._inductor.config.patch(cpp_wrapper=cpp_wrapper):
        torch.testing.assert_close(fused(fn)(a, b), fn(a, b))
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert sums * SUM <= plan.peak < (sums + 0.5) * SUM


def test_an_input_is_never_changed() -> None:
    acc, a, b = random(ROWS, COLUMNS), random(ROWS, INNER), random(INNER, COLUMNS)
    before = acc.clone()
    with torch.no_grad():
        torch.testing.assert_close(fused(OP)(acc, a, b), torch.addmm(acc, a, b))
        torch.testing.assert_close(fused(lambda x, *ab: OP(x.t(), *ab))(acc.t(), a, b), acc + a @ b)
    assert torch.equal(acc, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planned_is_measured(dtype: torch.dtype) -> None:
    a, b = random(ROWS, INNER).to(dtype), random(INNER, COLUMNS).to(dtype)
    step = fused(in_turn)

    def run() -> None:
        with torch.no_grad():
            step(a, b)

    measured = roam.measure_peak(run, warm_up=run).peak
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert plan.peak == measured


def test_the_generated_call() -> None:
    a, b = random(ROWS, INNER), random(INNER, COLUMNS)
    with torch.no_grad():
        _, [code] = run_and_get_code(fused(in_turn), a, b)
    calls = [line for line in code.splitlines() if "extern_kernels.addmm(" in line]
    assert len(calls) == INNER // 4 - 1
    assert all(line.rstrip().endswith("out=buf0)") for line in calls)
