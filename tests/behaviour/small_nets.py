"""Small nets and batches for byte budgets and tiers, of whichever kernels, and how they train."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

import roam
from roam.core.errors import UnplannedWarning
from roam.inspect.measure import measure_peak
from roam.optim import AdamA
from tests.helpers import random, snapshot, unfused

WIDTH, BATCH = 32, 256


class Block(nn.Module):
    """A norm and an MLP beside a residual, with dropout."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.drop(self.down(gelu(self.up(self.norm(x)))))
        return y


class Convolutional(nn.Module):
    """Residual blocks of a convolution and a batch norm."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + norm(conv(x)).relu()
        return x


class Checkpointed(nn.Module):
    """The first of three blocks is in the user's own checkpoint()."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.first, x, use_reentrant=False)
        return self.second(y)  # type: ignore[no-any-return]


class Loss(nn.Module):
    """A model with its loss, so that all that a step allocates is planned."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = make()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()  # type: ignore[no-any-return]


def blocks() -> nn.Module:
    return nn.Sequential(*(Block() for _ in range(4)))


def image() -> Tensor:
    return random(2, 4, 24, 24)


def rows() -> Tensor:
    return random(BATCH, WIDTH)


def trained(
    make: Callable[[], nn.Module], x: Tensor, folded: bool = False, **options: Any
) -> tuple[list[Any], int]:
    """Returns what three steps leave, and the measured peak of the third."""
    torch._dynamo.reset()
    roam.reset_report()
    model = Loss(make)
    optimizer = AdamA(model.parameters(), lr=1e-3) if folded else None
    run = unfused(model, **options, **({} if optimizer is None else {"optimizer": optimizer}))
    found: list[Any] = []

    def step() -> None:
        model.zero_grad(set_to_none=True)
        run(x).backward()
        if optimizer is not None:
            optimizer.step()

    for _ in range(2):
        step()
        found += snapshot([p.grad for p in model.parameters()])
        found += snapshot([*model.parameters(), *model.buffers()])
    model.zero_grad(set_to_none=True)
    peak = measure_peak(step).peak
    return found + snapshot([*model.parameters(), *model.buffers()]), peak


def compiled_step(model: nn.Module, **options: Any) -> Callable[[Tensor], Tensor]:
    """Returns a training step of a model in one graph, with folds. It returns the loss.

    A step that would run as more than one graph, or without a plan, fails the test.
    """
    optimizer = AdamA(model.parameters(), lr=1e-3)

    def train_step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()  # type: ignore[no-any-return]

    compiled = roam.compile_step(train_step, optimizer, **options)

    def planned(x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnplannedWarning)
            found: Tensor = compiled(x)
            return found

    return planned


def stepped(
    make: Callable[[], nn.Module], x: Tensor, steps: int, **options: Any
) -> tuple[list[Any], int]:
    """Trains a model by `compiled_step`.

    Returns the losses and the parameters at the end, and the measured peak of the last step.
    """
    torch._dynamo.reset()
    roam.reset_report()
    torch.manual_seed(0)
    model = make()
    run = compiled_step(model, **options)
    losses = [run(x) for _ in range(steps - 1)]
    peak = measure_peak(lambda: losses.append(run(x))).peak
    return snapshot([*losses, *model.parameters()]), peak
