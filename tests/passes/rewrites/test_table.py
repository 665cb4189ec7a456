"""Every rewrite of the tables keeps the gradients of a small language model: a row tests itself."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from roam.passes.pipeline import Pass
from roam.passes.rewrites.table import EXACT, REORDERING
from tests.passes.rewrites.split.joint import Joint

exact = {p.name: p for passes in EXACT.values() for p in passes}
reordering = {p.name: p for passes in REORDERING.values() for p in passes}


@pytest.mark.parametrize("name", [*exact, *reordering])
def test_gradients_stay(name: str) -> None:
    found = gradients((exact | reordering)[name])
    for ours, expected in zip(found, gradients(None), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        assert name in reordering or torch.equal(ours, expected)


class Words(nn.Module):
    """A mask, tied weights, an op computed twice, a clone and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.words(tokens))
        heads = x.unsqueeze(1).clone()
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        x = scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).squeeze(1)
        x = gelu(x) + x.exp() * x.exp()
        return cross_entropy((x @ self.words.weight.T).flatten(0, 1), tokens.flatten())


@cache
def gradients(rewrite: Pass | None) -> list[Tensor]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Words()
    backend = Joint([] if rewrite is None else [rewrite])
    torch.compile(model, backend=backend)(torch.arange(12).view(2, 6)).backward()
    assert len(backend.graphs) == 1
    return [p.grad for p in model.parameters() if p.grad is not None]
