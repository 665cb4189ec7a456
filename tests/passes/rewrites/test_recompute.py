"""What is computed again in the backward in place of being saved."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx

from roam.passes.pipeline import run
from roam.passes.rewrites.recompute import Recompute
from tests.passes.graphs import printed, same_bits, trace

X = torch.randn(64, 64)  # 16 KiB, the least that is worth an op


def joint(fn: Callable[[Tensor], tuple[Tensor, ...]], late: Collection[str]) -> fx.GraphModule:
    """The graph of forward and backward. late: the names of the backward's nodes."""
    module = trace(fn, X)
    for node in module.graph.nodes:
        node.meta["partitioner_tag"] = "is_backward" if node.name in late else "is_forward"
    return module


def after(
    fn: Callable[[Tensor], tuple[Tensor, ...]], late: Collection[str], smallest: int = 16 * 1024
) -> str:
    module = joint(fn, late)
    run((Recompute(smallest=smallest),), module)
    for got, wanted in zip(module(X.clone()), fn(X.clone()), strict=True):
        assert same_bits(got, wanted)
    return printed(module)


def lines(*text: str) -> str:
    return "\n".join(text)


def silu_and_its_reader(x: Tensor) -> tuple[Tensor, ...]:
    """The backward reads the silu's input, for its derivative, and its result, for the reader's."""
    made = x.neg()
    y = made.sigmoid()
    loss = y.sum()
    return loss, made.cos() * y


LATE = ("cos", "mul")


def test_a_pointwise_op_of_what_is_saved_anyway() -> None:
    assert after(silu_and_its_reader, LATE) == lines(
        "neg = neg(x_1)",
        "sigmoid = sigmoid(neg)",
        "sum_1 = sum(sigmoid)",
        "cos = cos(neg)",
        "sigmoid_1 = sigmoid(neg)",
        "mul = mul(cos, sigmoid_1)",
        "return (sum_1, mul)",
    )


def test_not_of_what_would_have_to_be_saved_for_that() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        y = x.neg().sigmoid()
        return y.sum(), y.cos()  # the backward does not read neg

    assert after(fn, ["cos"]).count("sigmoid(") == 1


def test_not_what_is_small() -> None:
    assert after(silu_and_its_reader, LATE, smallest=X.nbytes + 1).count("= sigmoid(") == 1


def test_not_what_is_returned() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        made = x.neg()
        y = made.sigmoid()
        return y, made.cos() * y

    assert after(fn, LATE).count("= sigmoid(") == 1


def test_not_a_matrix_product() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        made = x.neg()
        y = made.mm(made)
        return y.sum(), made.cos() * y

    assert after(fn, LATE).count("= mm(") == 1


def test_not_of_what_the_backward_finds_changed() -> None:
    """In the backward `made` holds something else than it held in the forward."""

    def fn(x: Tensor) -> tuple[Tensor, ...]:
        made = x.neg()
        y = made.sigmoid()
        loss = y.sum()
        made.add_(1)
        return loss, made.cos() * y

    assert after(fn, [*LATE, "add_"]).count("= sigmoid(") == 1


def test_a_view_of_the_result_is_made_of_the_copy() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        made = x.neg()
        y = made.sigmoid().view(-1)
        return y.sum(), made.view(-1).cos() * y

    found = after(fn, ["view_1", "cos", "mul"])
    assert "sigmoid_1 = sigmoid(neg)" in found
    assert "view_2 = view(sigmoid_1, [-1])" in found
