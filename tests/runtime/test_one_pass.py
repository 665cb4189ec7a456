"""Formulas that run as kernels: which tensors have one, and what happens without."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from roam.runtime.one_pass import LARGE, OnePass


def double(x: Tensor, y: Tensor | None) -> None:
    x.add_(x if y is None else y)


def by_its_values(x: Tensor) -> None:
    """What no kernel can do."""
    if x.sum() > 0:
        x.neg_()


def test_small_and_fake_tensors_have_no_kernel() -> None:
    one = OnePass(double)
    small = torch.ones(8, 64)
    one(small, None)
    assert torch.equal(small, torch.full((8, 64), 2.0))
    with FakeTensorMode():
        assert one.kernel(torch.ones(LARGE // 64, 64), None) is None


def test_what_cannot_be_compiled_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    one, x = OnePass(by_its_values), torch.ones(LARGE // 64, 64)
    with caplog.at_level(logging.WARNING, "roam"):
        for _ in range(2):
            one(x)
    assert not one.compiles
    assert (x == -1).all()
    assert [r.getMessage().split(" runs")[0] for r in caplog.records] == ["by_its_values"]


@pytest.mark.slow
def test_a_kernel_is_for_all_sizes() -> None:
    """Sizes that were equal when it was made need not be so later."""
    one = OnePass(double)
    for shape in ((64, 64, 64), (128, 256, 64), (2, LARGE, 64)):
        x, y = torch.ones(shape), torch.arange(64.0)
        one(x, y.expand(shape[0], 1, 64))
        assert torch.equal(x, (1 + y).expand(shape))
    assert [kernel is not None for kernel in one._kernels.values()] == [True]
