"""A decoder whose feed-forward layers are mixtures of experts, each expert a branch of the graph.

          ┌── expert 1 ── × gate 1 ──┐
    x ────┼── ...                    ├── sum ── + x
          └── expert n ── × gate n ──┘

The gates of all experts but the best `chosen` are zero. Every expert runs on every token, so that
the graph does not depend on the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention


@dataclass(frozen=True)
class Sizes:
    """The sizes of the decoder.

    Attributes:
        vocab: tokens.
        seq: the most positions.
        width: channels of a token.
        hidden: channels of an expert.
        experts: of each mixture.
        chosen: experts whose gate is not zero.
        heads: of the attention.
        layers: attention and mixture, each once.
        balance: the weight of the loss of importance.
    """

    vocab: int = 32_000
    seq: int = 256
    width: int = 512
    hidden: int = 2048
    experts: int = 16
    chosen: int = 2
    heads: int = 8
    layers: int = 4
    balance: float = 0.1


class ExpertDecoder(nn.Module):
    """A decoder with a mixture in each layer (Shazeer et al., arXiv 1701.06538)."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.sizes = sizes
        self.tokens = nn.Embedding(sizes.vocab, sizes.width)
        self.positions = nn.Parameter(torch.zeros(sizes.seq, sizes.width))
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocab, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the loss. Takes token ids [batch, seq], which are their own labels."""
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]
        losses: list[Tensor] = []
        for layer in self.layers:
            x, loss = layer(x)
            losses.append(loss)
        logits = self.head(self.norm(x))[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss + self.sizes.balance * torch.stack(losses).sum()}


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in range(2))
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.mixture = Mixture(sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        found = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        made, loss = self.mixture(self.norms[1](x))
        return x + made, loss


class Mixture(nn.Module):
    """Experts and their gates (arXiv 1701.06538, sections 2 and 2.1, without noise)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.chosen = sizes.chosen
        self.gate = nn.Linear(sizes.width, sizes.experts, bias=False)
        self.experts = nn.ModuleList(_Expert(sizes) for _ in range(sizes.experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted sum of the experts, and the loss of importance (section 4)."""
        scores = self.gate(x)
        least = scores.topk(self.chosen, -1).values[..., -1:]
        gates = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
        made = [expert(x) * gates[..., [i]] for i, expert in enumerate(self.experts)]
        importance = gates.flatten(0, -2).sum(0)
        return sum(made[1:], made[0]), importance.var() / importance.mean().square()


class _Expert(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.widen = nn.Linear(sizes.width, sizes.hidden)
        self.narrow = nn.Linear(sizes.hidden, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.narrow(gelu(self.widen(x)))
        return made
