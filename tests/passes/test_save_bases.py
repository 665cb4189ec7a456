"""What is saved once, where the backward reads a tensor and views of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from roam.passes.pipeline import run
from roam.passes.save_bases import SaveBases
from tests.passes.graphs import same_bits, trace

X = torch.randn(8, 8)


def saved(module: fx.GraphModule) -> list[str]:
    """The nodes of the forward that the backward reads."""
    late = [n for n in module.graph.nodes if n.meta.get("partitioner_tag") == "is_backward"]
    found = {s.name for n in late for s in n.all_input_nodes if s not in late}
    return sorted(found)


def beside_its_detach(x: Tensor) -> tuple[Tensor, ...]:
    """What autograd saves of a GELU by hand: the result, and a detached one beside it."""
    y = x.sin()
    kept = y.detach()
    loss = y.sum()
    return loss, kept.cos() * y


def view_of_a_view(x: Tensor) -> tuple[Tensor, ...]:
    y = x.sin()
    kept = y.detach().view(64)
    loss = y.sum()
    return loss, kept.view(8, 8).cos() * y


def a_view_alone(x: Tensor) -> tuple[Tensor, ...]:
    y = x.sin()
    kept = y.view(64)
    loss = y.sum()
    return loss, kept.cos()


@pytest.mark.parametrize(
    ("fn", "before", "after"),
    [
        (beside_its_detach, ["detach", "sin"], ["sin"]),
        (view_of_a_view, ["sin", "view"], ["sin"]),
        (a_view_alone, ["view"], ["view"]),
    ],
)
def test_one_memory_is_saved_once(
    fn: Callable[[Tensor], tuple[Tensor, ...]], before: list[str], after: list[str]
) -> None:
    module = trace(fn, X)
    names = [n.name for n in module.graph.nodes]
    for node in module.graph.nodes:
        late = names.index(node.name) > names.index("sum_1")
        if node.op != "output":
            node.meta["partitioner_tag"] = "is_backward" if late else "is_forward"
    assert saved(module) == before
    run((SaveBases(),), module)
    assert saved(module) == after
    for got, wanted in zip(module(X.clone()), fn(X.clone()), strict=True):
        assert same_bits(got, wanted)
