"""What an op does is counted from its call: products by PyTorch's formulas, all else by bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from roam.capture.op_calls import Call
from roam.capture.roofline import OpWork
from roam.capture.symbolic_sizes import Numbers
from tests.passes.graphs import node_of

aten = torch.ops.aten


def work(op: Any, *args: Any) -> OpWork:
    return OpWork.of(Call.of(node_of(op, args, {}, op(*args)), Numbers()))


def test_a_product() -> None:
    found = work(aten.mm.default, torch.empty(4, 8), torch.empty(8, 16))
    assert found == OpWork("cpu", 4 * (32 + 128 + 64), 2 * 4 * 8 * 16, torch.float32)
    half = torch.empty(4, 8, dtype=torch.bfloat16)
    assert work(aten.mm.default, half, half.t()).dtype is torch.bfloat16


CONVOLUTION = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
COUNTED: dict[str, Any] = {
    "addmm": (aten.addmm.default, (5,), (3, 4), (4, 5)),
    "bmm": (aten.bmm.default, (2, 3, 4), (2, 4, 5)),
    "convolution": (aten.convolution.default, (2, 3, 8, 8), (6, 3, 3, 3), (6,), *CONVOLUTION),
    "its backward": (
        aten.convolution_backward.default, (2, 6, 8, 8), (2, 3, 8, 8), (6, 3, 3, 3), [6],
        *CONVOLUTION, [True, True, True],
    ),
    "its backward to the weights": (
        aten.convolution_backward.default, (2, 6, 8, 8), (2, 3, 8, 8), (6, 3, 3, 3), [6],
        *CONVOLUTION, [False, True, False],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_as_pytorch_counts(name: str) -> None:
    op, *given = COUNTED[name]
    with FakeTensorMode():
        args = [torch.empty(a) if isinstance(a, tuple) else a for a in given]
        with FlopCounterMode(display=False) as counter:
            op(*args)
        assert work(op, *args).flops == counter.get_total_flops() > 0


def test_attention_of_a_cpu_counts_as_that_of_a_gpu() -> None:
    forward_op = aten._scaled_dot_product_flash_attention_for_cpu.default
    backward_op = aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    with FakeTensorMode():
        grad, q, k, v, out = (torch.empty(2, 4, 10, 16) for _ in range(5))
        forward = work(forward_op, q, k, v, 0.0, True)
        backward = work(backward_op, grad, q, k, v, out, torch.empty(2, 4, 10), 0.0, True)
    assert forward.flops == 2 * (2 * 2 * 4 * 10 * 10 * 16)
    assert backward.flops == 2.5 * forward.flops


def moved(op: Any, *args: Any) -> int:
    found = work(op, *args)
    assert found.flops == 0
    return found.nbytes


def test_what_is_read_and_written() -> None:
    x = torch.empty(100, 10)
    assert moved(aten.neg.default, x) == 8000
    assert moved(aten.add.Tensor, x, x) == 8000  # read once
    assert moved(aten.mul.Tensor, x, torch.empty(1, 1).expand(100, 10)) == 8004
    assert moved(aten.neg.default, torch.empty(100, 20)[:, :10]) == 8000
    assert moved(aten.sum.default, x) == 4004


def test_of_a_table_only_its_rows_are_read() -> None:
    table, rows = torch.empty(50_000, 8), torch.zeros(3, dtype=torch.int64)
    assert moved(aten.embedding.default, table, rows) == 2 * 3 * 8 * 4 + 3 * 8


def test_an_op_that_is_no_operator() -> None:
    def halve(x: Tensor) -> Tensor:
        return x / 2

    assert moved(halve, torch.empty(10)) == 80
