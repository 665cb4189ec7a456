"""Steps with rewrites of saved tensors, and which gradients differ from the exact ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

import roam
from roam.inspect.shrunk import ShrunkSaved
from tests.helpers import random


class Mlp(nn.Module):
    """A norm and an MLP, with their loss. x: [8, 64, 32]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(self.norm(x)))).square().mean()


def inputs(tokens: int = 64) -> Tensor:
    return random(8, tokens, 32).requires_grad_()


def gradients(model: nn.Module, run: Any, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Returns the loss, the gradient of x and those of the parameters, of one step."""
    model.zero_grad()
    leaf = x.detach().requires_grad_()
    torch.manual_seed(seed)
    loss = run(leaf)
    loss.backward()
    found = {"x": leaf.grad} | {n: p.grad for n, p in model.named_parameters()}
    return {"loss": loss.detach()} | {n: g.clone() for n, g in found.items() if g is not None}


def compiled(model: nn.Module, rewrites: Any, **options: Any) -> Any:
    torch._dynamo.reset()
    roam.reset_report()
    options = {"lowering": "aten", "rewrites": rewrites, **options}
    return torch.compile(model, backend="roam", options=options)


def changed(found: dict[str, Tensor], exact: dict[str, Tensor]) -> set[str]:
    return {name for name in exact if not torch.equal(found[name], exact[name])}


def shrunk() -> ShrunkSaved:
    [graph] = roam.report().graphs
    assert graph.shrunk is not None
    return graph.shrunk
