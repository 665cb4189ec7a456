"""Training with gradients folded in the graph beside a stock optimizer's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import roam
from roam.core.problem import Problem
from roam.optim import AdamA
from tests.helpers import assert_equal, random, unfused

Make = Callable[[], nn.Module]
Run = Callable[..., Tensor]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def steps(model: nn.Module, run: Run, optimizer: torch.optim.Optimizer) -> None:
    for i in range(3):
        run(random(5 + i, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def eager_kernels(model: nn.Module) -> Run:
    return torch.compile(model, backend="aot_eager")


def beside_adamw(
    make: Make, compiled: Callable[[Any], Run] = eager_kernels
) -> tuple[Any, Any, AdamA]:
    """A model after three steps of AdamW; another as it was before them, and AdamA for that."""
    torch.manual_seed(0)
    reference = make()
    model = copy.deepcopy(reference)
    steps(reference, compiled(reference), adamw(reference))
    torch._dynamo.reset()
    return reference, model, adama(model)


def trained(make: Make, **how: object) -> tuple[nn.Module, nn.Module]:
    """A model after three steps of AdamW, and after three of AdamA in the graph."""
    reference, model, optimizer = beside_adamw(make)
    options = {"optimizer": optimizer, **how}
    steps(model, unfused(model, **options), optimizer)
    return reference, model


def assert_same(reference: nn.Module, model: nn.Module) -> None:
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert all(p.grad is None for p in model.parameters())


def folds(problem: Problem) -> list[str]:
    return [op.name for op in problem.ops if op.name.startswith("fold_")]


def problem() -> Problem:
    found = roam.report().graphs[-1].problem
    assert found is not None
    return found


Loss = Callable[[Any, Run], Tensor]  # of a model, and the same compiled


def adama(net: nn.Module, **how: Any) -> AdamA:
    return AdamA(net.named_parameters(), lr=1e-2, **how)


def same_as_adamw(
    make: Callable[[], nn.Module],
    loss: Loss,
    compiled: Callable[..., Run] = eager_kernels,
    backward: Callable[[Tensor], None] = lambda loss: loss.backward(),
) -> AdamA:
    """Three steps of a loss with AdamW, and with AdamA, whose weights must be the same bits.

    compiled: makes something of a model, with or without options for roam.
    """

    def train(net: nn.Module, run: Run, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            backward(loss(net, run))
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    reference = make()
    model = copy.deepcopy(reference)
    train(reference, compiled(reference), adamw(reference))
    torch._dynamo.reset()
    optimizer = adama(model)
    ours = unfused if compiled is eager_kernels else compiled
    train(model, ours(model, optimizer=optimizer), optimizer)
    assert_same(reference, model)
    return optimizer


class Block(nn.Module):
    """What nn.Module.compile compiles: it does nothing with an nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))
