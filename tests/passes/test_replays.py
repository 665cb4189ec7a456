"""What stands for an op that runs again, and that it makes the same bits."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from roam.passes.replays import replay_of
from tests.passes.graphs import same_bits, trace

aten = torch.ops.aten


@pytest.mark.parametrize("p", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_dropout_of_any_type_is_made_of_its_mask(dtype: torch.dtype, p: float) -> None:
    """Half precision rounds the scale first: dividing by 1 - p afterwards gives other bits."""

    def dropped(x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = aten.native_dropout(x, p, True)
        return found

    x = torch.randn(64, 33).to(dtype)
    graph = trace(dropped, x)
    nodes = list(graph.graph.nodes)
    [node] = [n for n in nodes if n.target is aten.native_dropout.default]
    replay = replay_of(node)
    assert replay is not None
    end = graph.graph.output_node()
    with graph.graph.inserting_before(end), FakeTensorMode(allow_non_fake_inputs=True):
        [again] = replay.run({n: n for n in replay.reads})
    first = next(n for n in node.users if n.target is operator.getitem and n.args[1] == 0)
    end.args = ((first, again),)
    graph.recompile()
    drawn, made = graph(x)
    assert same_bits(made, drawn)
