"""The formulas in float64, written plainly, and what the tests of the optimizers share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from roam.optim import AdamA

Model = TypeVar("Model", bound=nn.Module)
GOOD: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
ACCUMULATE: dict[str, Any] = {"mode": "accumulate", "micro_batches": 2}
both_modes = pytest.mark.parametrize("how", [{}, ACCUMULATE], ids=["release", "accumulate"])


class Reference:
    """AdamA or SlimAdamA of one parameter: what a mini-batch of gradients makes of it."""

    def __init__(
        self,
        param: Tensor,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        dims: tuple[int, ...] = (),
        invariant: bool = False,
        update_clip: float | None = None,
    ) -> None:
        self.param = param.detach().clone()
        self.m = torch.zeros_like(self.param)
        self.v = self.mean(torch.zeros_like(self.param), dims)
        self.steps = 0
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.dims, self.invariant, self.update_clip = dims, invariant, update_clip

    def mean(self, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        return x.mean(dims, keepdim=True) if dims else x

    def step(self, grads: Sequence[Tensor]) -> None:
        beta1, beta2 = self.betas
        n = len(grads)
        self.steps += 1
        self.m = beta1 * self.m + (1 - beta1) * sum(g / n for g in grads)
        squares = sum(self.mean((g / n) ** 2, self.dims) for g in grads)
        self.v = beta2 * self.v + (1 - beta2) * squares * (n if self.invariant else 1)
        m = self.m / (1 - beta1**self.steps)
        v = self.v / (1 - beta2**self.steps)
        update = m / (v.sqrt() + self.eps)
        if self.update_clip is not None:
            rms = math.sqrt(float((update**2).sum()) / max(update.numel(), 1))
            update = update / max(1.0, rms / self.update_clip)
        self.param = self.param * (1 - self.lr * self.weight_decay) - self.lr * update


def gradients(model: nn.Module, data: Tensor) -> dict[str, Tensor]:
    """Of the mean square of the model's output, without touching `.grad`."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss(model, data), list(named.values()))
    return dict(zip(named, found, strict=True))


def loss(model: nn.Module, data: Tensor) -> Tensor:
    return model(data).square().mean()


def backward(model: nn.Module, data: Tensor) -> None:
    loss(model, data).backward()  # type: ignore[no-untyped-call]


def mlp(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4)).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 6, generator=generator, dtype=dtype) for _ in range(count)]


def twin(model: Model) -> Model:
    return copy.deepcopy(model)


def same_parameters(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def train(model: nn.Module, optimizer: AdamA, steps: int, seed: int = 1) -> None:
    data = batches(steps * optimizer.micro_batches, seed=seed)
    for i, x in enumerate(data, 1):
        backward(model, x)
        if i % optimizer.micro_batches == 0:
            optimizer.step()


def schedule(optimizer: torch.optim.Optimizer) -> SequentialLR:
    """Warm-up, then cosine."""
    parts: list[Any] = [
        LinearLR(optimizer, 0.1, total_iters=3),
        CosineAnnealingLR(optimizer, T_max=12),
    ]
    return SequentialLR(optimizer, parts, milestones=[3])


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.detach(), expected.detach(), rtol=1e-12, atol=1e-12)


def mini_batches(
    model: nn.Module, optimizer: torch.optim.Optimizer, n: int
) -> Iterator[list[dict[str, Tensor]]]:
    """Trains on five mini-batches of n micro-batches. Yields the gradients after each step."""
    data = batches(5 * n, torch.float64)
    for i in range(0, len(data), n):
        part = data[i : i + n]
        grads = [gradients(model, x) for x in part]
        for x in part:
            backward(model, x)
        optimizer.step()
        yield grads
