"""Trainings whose optimizer may keep its states in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import roam
from roam.optim import AdamA, SlimAdamA
from roam.optim.folding import FoldingOptimizer
from roam.runtime.stored_tensor import StoredTensor
from tests.behaviour.small_nets import Block, Loss, rows
from tests.helpers import snapshot, unfused

Make = Callable[[nn.Module], FoldingOptimizer]
A_MATRIX = 2**13  # bytes: states of matrices have at least so many, those of biases fewer
SMALLEST = 256  # bytes: matrices and the biases of the inner layers are stored, others are not
MAKES: dict[str, Make] = {
    "AdamA": lambda m: AdamA(m.named_parameters(), lr=1e-3),
    "accumulating": lambda m: AdamA(
        m.named_parameters(), lr=1e-3, mode="accumulate", micro_batches=2
    ),
    "SlimAdamA": lambda m: SlimAdamA(m.named_parameters(), {"model.0.up.weight": (1,)}, lr=1e-3),
}


def two_blocks() -> nn.Module:
    return nn.Sequential(Block(), Block())


def to(folder: Path) -> roam.OffloadTo:
    return roam.OffloadTo(str(folder), write=1e9, smallest=SMALLEST)


class Training:
    """A model, its optimizer, and a compiled run of it."""

    def __init__(self, make: Make = MAKES["AdamA"], **options: Any) -> None:
        torch._dynamo.reset()
        roam.reset_report()
        self.model = Loss(two_blocks)
        self.optimizer = make(self.model)
        self.run = unfused(self.model, optimizer=self.optimizer, **options)

    def steps(self, n: int, first: int = 0) -> list[Any]:
        """Trains and returns the losses and parameters."""
        losses = []
        for i in range(first, first + n):
            for k in range(self.optimizer.micro_batches):
                torch.manual_seed(i)
                loss = self.run(rows() + i + k)
                loss.backward()
                losses.append(loss.item())
            self.optimizer.step()
        return losses + snapshot([*self.model.parameters()])

    @property
    def stored(self) -> list[StoredTensor]:
        states = [x for state in self.optimizer.state.values() for x in state.values()]
        return [x for x in states if isinstance(x, StoredTensor)]
