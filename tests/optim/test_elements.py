"""Formulas of elements that run by a kernel of their own, against the same formulas in eager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam import optim
from roam.optim import elements
from roam.optim.means import mean_square
from roam.optim.scratch import scratch
from roam.runtime.one_pass import LARGE, OnePass

WIDTH = 192
ROWS = LARGE // WIDTH + 3


def trained(make: Any, shapes: Sequence[tuple[int, ...]], steps: int = 3) -> list[Tensor]:
    """Returns parameters and states after some steps."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    optimizer = make(params)
    for _ in range(steps):
        for param in params:
            optimizer.absorb(param, torch.randn(param.shape, generator=generator))
        optimizer.step()
    states = (t for p in params for t in optimizer.state[p].values())
    return [*(p.detach() for p in params), *states]


def same_without_kernels(monkeypatch: pytest.MonkeyPatch, make: Any, shapes: Any) -> None:
    asked: list[bool] = []
    real = OnePass.kernel

    def kernel(self: OnePass, *tensors: Tensor | None) -> Any:
        found = real(self, *tensors)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(OnePass, "kernel", kernel)
    mine = trained(make, shapes)
    assert any(asked), "a large tensor is updated by a kernel"
    monkeypatch.setattr(OnePass, "kernel", lambda self, *tensors: None)
    for a, b in zip(mine, trained(make, shapes), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a number of elements that is no multiple of a row, and of one tensor alone."""

    def make(params: Any) -> Any:
        return optim.Lion(params, lr=0.01, weight_decay=0.1)

    same_without_kernels(monkeypatch, make, [(LARGE + 5,), (7,), ()])


@pytest.mark.slow  # compiles two kernels
def test_adafactor(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(params: Any) -> Any:
        return optim.Adafactor(params, lr=0.01, weight_decay=0.1)

    same_without_kernels(monkeypatch, make, [(ROWS, WIDTH), (WIDTH, ROWS), (5,)])


def test_what_is_not_alike_is_left_alone() -> None:
    formula = OnePass(lambda p, g, numbers: p.add_(g))
    param = torch.zeros(ROWS, WIDTH)
    for grad in (torch.ones(WIDTH, ROWS).t(), torch.ones(ROWS, WIDTH, dtype=torch.float64)):
        assert not elements.update(formula, (1.0,), param, grad)
    assert not param.any()


@pytest.mark.parametrize(
    "make", [optim.Lion, pytest.param(optim.Adafactor, marks=pytest.mark.slow)]
)
def test_a_kernel_allocates_nothing_and_the_plan_knows_it(make: Any) -> None:
    """Fake tensors have no kernel: what a formula would make of all elements was planned."""
    param = nn.Parameter(torch.empty(50_257, 768, device="meta"))
    grad = torch.empty_like(param)
    rule = make.rule()
    assert scratch(rule, param, grad, releases=True) < 8 * 2**20


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, (1, 1)),
        (torch.bfloat16, (ROWS, 1)),
        pytest.param(torch.float32, (1, WIDTH), marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, (1, WIDTH), marks=pytest.mark.slow),
    ],
)
def test_mean_squares(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(ROWS, WIDTH, dtype=dtype)
    dims = [d for d in (0, 1) if shape[d] == 1]
    found = mean_square(x, shape)
    assert found.dtype is torch.float32
    assert torch.allclose(found, x.double().square().mean(dims, keepdim=True).float(), rtol=1e-5)


@pytest.mark.parametrize("make", [optim.Adafactor, optim.AdaLomo, optim.CAME])
def test_a_gradient_of_zeros_is_a_number(make: Any) -> None:
    """r c underflowed to 0 in AdaLomo and CAME, and 0 / √0 spread to the whole parameter."""
    param = nn.Parameter(torch.ones(4, 4))
    optimizer = make([param])
    optimizer.absorb(param, torch.zeros(4, 4))
    optimizer.step()
    assert torch.isfinite(param).all()
