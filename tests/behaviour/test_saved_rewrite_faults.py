"""What rewrites of saved tensors must not touch, and rewrites that are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import gelu

import roam
from roam.passes import WTACRS, ApproxBP, Quantized
from roam.passes.rewrites.saved import Method, Restored, SavedTensor
from tests.behaviour.shrunk_training import Mlp, changed, compiled, gradients, inputs, shrunk
from tests.helpers import random

pytestmark = pytest.mark.usefixtures("shared_kernels")


class Autocast(nn.Module):
    """An MLP in bfloat16: the graph casts its weights, and saves the casts."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.mlp(x)  # type: ignore[no-any-return]


def test_casts_of_weights_are_not_sampled() -> None:
    """dx = dz W sums over rows of a saved tensor, too: over those of W, cast by autocast."""
    model, x = Autocast(), inputs()
    exact = gradients(model, compiled(model, [], recompute=False), x)
    found = gradients(model, compiled(model, [WTACRS()], recompute=False), x)
    assert changed(found, exact) == {"mlp.up.weight", "mlp.down.weight"}


class Attention(nn.Module):
    """Attention of one sequence without heads: its products are those of a linear. x: [64, 32]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.out = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).t()
        return self.out(scores.softmax(-1) @ x).square().mean()  # type: ignore[no-any-return]


def test_queries_and_keys_are_not_sampled() -> None:
    """dk = dsᵀ q looks like the gradient of a weight, and goes on to other gradients."""
    model, x = Attention(), random(64, 32)
    exact = gradients(model, compiled(model, [], recompute=False), x)
    run = compiled(model, [WTACRS(exact_in=())], recompute=False)
    assert changed(gradients(model, run, x), exact) == {"out.weight"}


class Transposed(nn.Module):
    """An activation of a transposed tensor, as between a linear and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x).transpose(1, 2))).square().mean()  # type: ignore[no-any-return]


def test_codes_of_an_activation_are_read_in_the_order_of_its_elements() -> None:
    model, x = Transposed(), random(8, 16, 32)
    exact = gradients(model, compiled(model, [], recompute=False), x)
    found = gradients(model, compiled(model, [ApproxBP(), WTACRS()], recompute=False), x)
    assert changed(found, exact) == {"down.weight"}


@dataclass(frozen=True)
class Raises:
    modules: tuple[str, ...] = ("*",)
    name: str = "raises"
    exact: bool = False

    def method(self, tensor: SavedTensor) -> Method:
        raise LookupError("no such tensor")


@dataclass(frozen=True)
class Cropped:
    """Restores half of each tensor, which has another shape."""

    modules: tuple[str, ...] = ("*",)
    name: str = "cropped"
    exact: bool = False

    def method(self, tensor: SavedTensor) -> Method:
        return Restored(lambda x, noise: (x[..., ::2],), lambda saved: saved[0])


@dataclass(frozen=True)
class Breaks:
    """A pass that removes an input that the graph needs."""

    name: str = "breaks"

    def __call__(self, module: fx.GraphModule) -> int:
        module.graph.erase_node(next(iter(module.graph.nodes)))
        return 1


def test_a_rewrite_that_fails_is_left_out_alone_and_the_report_says_why() -> None:
    model, x = Mlp(), inputs()
    expected = gradients(model, compiled(model, [WTACRS()], recompute=False), x)
    rewrites = [Raises(), Cropped(), Breaks(), Quantized(modules=("mlp.*",)), WTACRS()]
    found = gradients(model, compiled(model, rewrites, recompute=False), x)
    assert changed(found, expected) == set()
    reasons = {r.rewrite: r.reason for r in shrunk().left_out}
    assert reasons.keys() == {"raises", "cropped", "breaks", "quantized"}
    assert "it raised LookupError('no such tensor') for" in reasons["raises"]
    assert "restore is torch.float32 (8, 64, 16), not torch.float32" in reasons["cropped"]
    assert reasons["quantized"] == "it finds no saved tensor of its kind in modules ('mlp.*',)"
    for name, reason in reasons.items():
        assert f"rewrite {name} is left out: {reason}" in str(roam.report())
        assert reason in str(roam.report().step.explain())
