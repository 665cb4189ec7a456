"""The backward of cross entropy in blocks: the bits of the two ops, and one block between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from roam.core.machine import OTHER
from roam.inspect.measure import measure_peak
from roam.passes.rewrites.cross_entropy_backward import OP, CrossEntropyBackward, block_bytes
from tests.helpers import CpuWith
from tests.passes.graphs import bits, printed, same_bits, trace

aten = torch.ops.aten
ROWS, CLASSES = 50, 13
Graph = tuple[fx.GraphModule, tuple[Any, ...]]


def backward_of(
    shape: tuple[int, ...] = (ROWS, CLASSES),
    dtype: torch.dtype = torch.float32,
    weighted: bool = False,
    **how: Any,
) -> Graph:
    """The graph that yields the gradient of the logits, and inputs for it."""

    def fn(logits: Tensor, target: Tensor, above: Tensor, weight: Tensor) -> Tensor:
        logits = logits.detach().requires_grad_()
        loss = nn.functional.cross_entropy(logits, target, weight if weighted else None, **how)
        (grad,) = torch.autograd.grad(loss, logits, above)
        return grad

    torch.manual_seed(0)
    logits = torch.randn(shape).to(dtype)
    without_classes = (shape[0], *shape[2:]) if len(shape) > 1 else ()
    target = torch.randint(CLASSES, without_classes)
    above = torch.randn(without_classes if how.get("reduction") == "none" else ()).to(dtype)
    inputs = (logits, target, above, torch.rand(CLASSES).to(dtype))
    return trace(fn, *inputs), inputs


def test_the_two_become_one() -> None:
    module, _ = backward_of()
    before = printed(module)
    assert before.count("nll_loss_backward(") == 1
    assert before.count("_log_softmax_backward_data(") == 1
    assert CrossEntropyBackward()(module) == 1
    text = printed(module)
    assert text.count(" = cross_entropy_backward(") == 1
    assert "loss_backward" not in text
    assert "softmax_backward" not in text
    assert len(text.splitlines()) == len(before.splitlines()) - 1
    module.graph.lint()


@pytest.mark.parametrize("rows_in_a_block", [1, 7, 50, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "how",
    [
        {"reduction": "mean"},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"weighted": True},
        {"weighted": True, "reduction": "sum"},
        {"ignore_index": 3},
        {"ignore_index": 3, "weighted": True, "reduction": "none"},
    ],
    ids=str,
)
def test_same_bits(
    how: dict[str, Any], dtype: torch.dtype, rows_in_a_block: int, cpu_with: CpuWith
) -> None:
    cpu_with(loss_block=rows_in_a_block * CLASSES * dtype.itemsize)
    module, inputs = backward_of(dtype=dtype, **how)
    wanted = module(*inputs)
    assert bool(bits(wanted).any())
    assert CrossEntropyBackward()(module) == 1
    module.recompile()
    assert same_bits(module(*inputs), wanted)


def test_no_rows_at_all() -> None:
    module, inputs = backward_of((0, CLASSES), reduction="sum")
    wanted = module(*inputs)
    CrossEntropyBackward()(module)
    module.recompile()
    assert same_bits(module(*inputs), wanted)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((ROWS, CLASSES), {"label_smoothing": 0.1}),
        ((CLASSES,), {}),
        ((4, CLASSES, 5), {}),
        ((4, CLASSES, 5, 2), {"reduction": "sum"}),
    ],
    ids=str,
)
def test_other_losses_are_left_alone(shape: tuple[int, ...], how: dict[str, Any]) -> None:
    module, _ = backward_of(shape, **how)
    before = str(module.graph)
    assert CrossEntropyBackward()(module) == 0
    assert str(module.graph) == before


def two_ops(log_probs: Tensor, other: Tensor, target: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    between = aten.nll_loss_backward(one, log_probs, target, None, 1, -100, one)
    return between, aten._log_softmax_backward_data(between, other, 1, log_probs.dtype)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    target = torch.arange(ROWS) % CLASSES
    return torch.randn(ROWS, CLASSES).log_softmax(1), target, torch.tensor(1.0)


def test_with_only_one_reader_between_them_they_are_joined() -> None:
    module = trace(lambda x, *rest: two_ops(x, x.detach(), *rest)[1], *inputs())
    assert CrossEntropyBackward()(module) == 1


def test_not_where_somebody_else_reads_what_is_between() -> None:
    module = trace(lambda x, *rest: two_ops(x, x, *rest), *inputs())
    assert CrossEntropyBackward()(module) == 0


def test_not_where_the_two_read_different_tensors() -> None:
    module = trace(lambda x, *rest: two_ops(x, x.exp(), *rest)[1], *inputs())
    assert CrossEntropyBackward()(module) == 0


def test_not_where_rows_do_not_lie_one_after_another() -> None:
    x, *rest = inputs()
    module = trace(lambda x, *rest: two_ops(x.t(), x.t(), *rest)[1], x.t().contiguous(), *rest)
    assert CrossEntropyBackward()(module) == 0


def test_not_where_the_result_has_another_type() -> None:
    x, target, one = inputs()
    module = trace(lambda x, *rest: two_ops(x, x, *rest)[1], x, target, one)
    [softmax] = module.graph.find_nodes(
        op="call_function", target=aten._log_softmax_backward_data.default
    )
    softmax.meta["val"] = softmax.meta["val"].half()  # as on a GPU, from a float's gradient
    assert CrossEntropyBackward()(module) == 0


@pytest.mark.parametrize("rows", [96, 100])
def test_one_block_is_all_it_allocates(rows: int, cpu_with: CpuWith) -> None:
    """Written over the log-softmax; 100 rows leave a block of 4 at the end."""
    cpu_with(loss_block=32 * 256 * 4)
    log_probs = torch.randn(rows, 256).log_softmax(1)
    target, one = torch.arange(rows), torch.tensor(1.0)

    def over() -> None:
        OP.overloadpacket.out(
            one, log_probs, target, None, 1, -100, one, 1, torch.float32, out=log_probs
        )

    assert block_bytes(log_probs) == 32 * 256 * 4
    assert measure_peak(over).peak == block_bytes(log_probs)


def test_a_short_tensor_is_one_block_of_its_own_size() -> None:
    assert block_bytes(torch.empty(3, 10)) == 3 * 10 * 4
    wider_than_a_block = torch.empty(2, OTHER.loss_block, device="meta")
    assert block_bytes(wider_than_a_block) == 4 * OTHER.loss_block
