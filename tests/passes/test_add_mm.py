"""The op that adds a matrix product to an accumulator, run eagerly and on fake tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from roam.passes import add_mm
from tests.helpers import random


@pytest.fixture(params=[False, True], ids=["contiguous", "transposed"])
def matrices(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    acc = random(5, 7).t().contiguous().t() if request.param else random(5, 7)
    return acc, random(5, 3), random(3, 7)


def test_both_forms(matrices: tuple[Tensor, Tensor, Tensor]) -> None:
    """torch's result is contiguous always: on some processors the last bits depend on that."""
    acc, a, b = matrices
    before = acc.clone()
    expected = torch.addmm(acc, a, b)
    result = add_mm.OP(acc, a, b)
    torch.testing.assert_close(result, expected)
    assert result.stride() == acc.stride()
    assert torch.equal(acc, before)
    assert add_mm.IN_PLACE(acc, a, b) is acc
    assert torch.equal(acc, result)


def test_into_given_memory(matrices: tuple[Tensor, Tensor, Tensor]) -> None:
    acc, a, b = matrices
    before, expected = acc.clone(), add_mm.OP(acc, a, b)
    out = torch.empty_like(acc)
    assert add_mm.OP.overloadpacket.out(acc, a, b, out=out) is out
    assert torch.equal(out, expected)
    assert torch.equal(acc, before)
    same = acc.view_as(acc)  # another tensor on the same memory
    assert add_mm.OP.overloadpacket.out(acc, a, b, out=same) is same
    assert torch.equal(acc, expected)


def test_fake_tensors(matrices: tuple[Tensor, Tensor, Tensor]) -> None:
    with FakeTensorMode() as mode:
        acc, a, b = map(mode.from_tensor, matrices)
        result = add_mm.OP(acc, a, b)
        assert result.shape == acc.shape
        assert result.stride() == acc.stride()
        assert result.untyped_storage()._cdata != acc.untyped_storage()._cdata
        assert add_mm.IN_PLACE(acc, a, b) is acc


@pytest.mark.parametrize(
    ("acc", "a", "b"),
    [
        ((5,), (5, 3), (3, 7)),
        ((1, 7), (5, 3), (3, 7)),
        ((5, 1), (5, 3), (3, 7)),
        ((5, 7), (5, 3), (4, 7)),
    ],
)
def test_shapes_that_do_not_fit(
    acc: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="add_mm"):
        add_mm.OP(torch.empty(acc), torch.empty(a), torch.empty(b))
