"""The gradient of a loss in itself, where the backward was captured too."""

from __future__ import annotations

import torch
from torch import Tensor

from roam.passes.pipeline import run
from roam.passes.rewrites.constant_tangents import ConstantTangents
from tests.helpers import random
from tests.passes.graphs import printed, same_bits, trace


def gradient(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    loss = x.sin().sum()
    (found,) = torch.autograd.grad(loss, x)
    return found


def test_nothing_waits_for_the_loss() -> None:
    module = trace(gradient, random(5))
    assert "ones_like" in printed(module)
    run((ConstantTangents(),), module)
    assert "ones_like" not in printed(module)
    [full] = module.graph.find_nodes(op="call_function", target=torch.ops.aten.full.default)
    assert full.all_input_nodes == []
    module.recompile()
    assert same_bits(module(random(5)), gradient(random(5)))


def test_ones_that_lie_otherwise_stay() -> None:
    """`full` makes contiguous memory only."""
    module = trace(lambda x: torch.ones_like(x.t()), random(2, 3))
    assert ConstantTangents()(module) == 0
