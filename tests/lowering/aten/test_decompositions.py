"""What operators are made of, traced from nodes of a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

from roam.lowering.aten.decompositions import parts
from tests.passes.graphs import trace

aten = torch.ops.aten
LOGS, LABELS = torch.randn(6, 5).log_softmax(1), torch.tensor([1, 4, 0, -100, 2, 2])


def _only(fn: Any, *inputs: Tensor) -> fx.Node:
    graph = trace(fn, *inputs).graph
    return next(n for n in graph.nodes if n.op == "call_function")


def test_the_parts_compute_the_same() -> None:
    def fn(x: Tensor, y: Tensor) -> Any:
        return aten.nll_loss_forward(x, y, None, 1, -100)

    graph = parts(_only(fn, LOGS, LABELS))
    assert graph is not None
    assert all("nll_loss" not in str(n.target) for n in graph.nodes)
    assert all("val" in n.meta for n in graph.nodes if n.op == "call_function")
    found = fx.GraphModule({}, graph)(LOGS, LABELS)
    torch.testing.assert_close(tuple(found), fn(LOGS, LABELS))


def test_an_operand_that_is_given_twice_is_one_placeholder() -> None:
    graph = parts(_only(lambda x: aten.mse_loss(x, x), LOGS))
    assert graph is not None
    assert len(graph.find_nodes(op="placeholder")) == 1


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: aten.mm(x, x.T),  # an operator of its own
        lambda x: aten.bernoulli(x.exp()),  # random: parts would draw other numbers
        lambda x: aten.leaky_relu_(x),  # changes its operand
    ],
    ids=["product", "random", "in place"],
)
def test_others_have_no_parts(fn: Any) -> None:
    graph = trace(fn, LOGS.clone()).graph
    assert all(parts(n) is None for n in graph.nodes if n.target is not aten.t.default)
