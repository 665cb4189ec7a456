"""Codes that leave no bias in any gradient: what is read linearly, and derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from roam.passes import WTACRS, Quantized, ReluBits
from tests.behaviour.shrunk_training import changed, compiled, gradients, shrunk
from tests.helpers import random

pytestmark = pytest.mark.usefixtures("shared_kernels")
DRAWS = 60


class Net(nn.Module):
    """A norm, an MLP and its loss. x: [64, 16]."""

    def __init__(self, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.act = nn.LayerNorm(16), activation()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.act(self.up(self.norm(x))), 0.1, self.training)
        return self.down(hidden).square().mean()  # type: ignore[no-any-return]


def distances(rewrites: list[object], name: str) -> Tensor:
    """Returns how far the mean of a gradient is from the exact one, in standard deviations."""
    model, x = Net().eval(), random(64, 16)
    with torch.no_grad():
        model.up.weight.mul_(4)  # a wide range: coarse codes, whose bias 60 draws can show
    exact = gradients(model, compiled(model, [], recompute=False), x)[name].double()
    run = compiled(model, rewrites, recompute=False)
    found = torch.stack([gradients(model, run, x, seed)[name] for seed in range(DRAWS)]).double()
    assert shrunk().removed > 0
    return (found.mean(0) - exact) / (found.std(0) / DRAWS**0.5)


@pytest.mark.slow
def test_gradients_before_an_activation_have_no_bias() -> None:
    """up.bias sums over all tokens what GELU's derivative makes of its input."""
    without = distances([WTACRS(bits=8), Quantized(bits=4, smallest=0, unbiased=True)], "up.bias")
    assert float(without.square().mean().sqrt()) < 1.3
    assert float(without.abs().max()) < 4
    biased = distances([Quantized(bits=4, smallest=0)], "up.bias")
    assert float(biased.square().mean().sqrt()) > 2


def test_the_derivative_of_relu_is_a_bit() -> None:
    model, x = Net(nn.ReLU), random(64, 16)
    exact = gradients(model, compiled(model, [], recompute=False), x)
    found = gradients(model, compiled(model, [ReluBits()], recompute=False), x)
    assert changed(found, exact) == set()
    [kept] = shrunk().tensors
    assert (kept.module, kept.before, kept.after) == ("act", 64 * 64 * 4, 64 * 64 // 8)
