"""The nine configurations of SSDTrain's evaluation (arXiv 2408.10013), as one rank holds them.

BERT, GPT and T5 with (hidden, layers) of (8192, 4), (12288, 3) and (16384, 2): sequences of 1024
tokens, heads of 128, float16, flash attention, and dropout of a tenth as in Megatron. Tensor
parallelism over two devices is modelled by the shapes that one of them holds: half of the heads, of
the middle of each MLP and of the vocabulary. The sums over ranks, which give transfers further time
to hide in, are left out. Of T5's layers half are decoders, rounded down.

    from roam.bench.ssdtrain_models import CONFIGS
    model, batch = CONFIGS["gpt 8192x4"].build()      # on the meta device, without data
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SEQUENCE = 1024
HEAD = 128
DROPOUT = 0.1
RANKS = 2  # of tensor parallelism
MICRO_BATCH = 16  # sequences. What share can be hidden does not depend on it
VOCABULARY = {"bert": 30_522, "gpt": 50_257, "t5": 32_128}  # of the tokenizers they come with
SHAPES = ((8192, 4), (12_288, 3), (16_384, 2))


class Attention(nn.Module):
    """Attention with a rank's heads, of a sequence to itself or to a memory."""

    def __init__(self, hidden: int, *, causal: bool, crossed: bool) -> None:
        super().__init__()
        own = hidden // RANKS
        self.causal, self.crossed, self.own = causal, crossed, own
        self.query = nn.Linear(hidden, own if crossed else 3 * own)
        self.pair = nn.Linear(hidden, 2 * own) if crossed else None
        self.out = nn.Linear(own, hidden)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        if self.pair is None:
            parts = self.query(x).chunk(3, dim=-1)
        else:
            parts = (self.query(x), *self.pair(memory).chunk(2, dim=-1))
        q, k, v = (p.unflatten(-1, (-1, HEAD)).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A layer of a transformer: normalize, work, drop out, add."""

    def __init__(self, hidden: int, *, causal: bool, crossed: bool = False) -> None:
        super().__init__()
        self.attention = Attention(hidden, causal=causal, crossed=False)
        self.cross = Attention(hidden, causal=False, crossed=True) if crossed else None
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3 if crossed else 2))
        self.up = nn.Linear(hidden, 4 * hidden // RANKS)
        self.down = nn.Linear(4 * hidden // RANKS, hidden)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        norms = iter(self.norms)
        x = x + functional.dropout(self.attention(y := next(norms)(x), y), DROPOUT)
        if self.cross is not None:
            x = x + functional.dropout(self.cross(next(norms)(x), memory), DROPOUT)
        middle = functional.gelu(self.up(next(norms)(x)))
        return x + functional.dropout(self.down(middle), DROPOUT)


class Transformer(nn.Module):
    """A model with its loss: the mean cross entropy over the vocabulary of one rank."""

    def __init__(self, kind: str, hidden: int, layers: int) -> None:
        super().__init__()
        vocabulary = VOCABULARY[kind] // RANKS
        encoder = {"bert": layers, "gpt": 0, "t5": layers - layers // 2}[kind]
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.places = nn.Embedding(SEQUENCE, hidden)
        self.encoder = nn.ModuleList(Layer(hidden, causal=False) for _ in range(encoder))
        crossed = kind == "t5"
        self.decoder = nn.ModuleList(
            Layer(hidden, causal=True, crossed=crossed) for _ in range(layers - encoder)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        memory = self.embedded(tokens)
        for layer in self.encoder:
            memory = layer(memory, memory)
        x = memory
        if self.decoder and self.encoder:
            x = self.embedded(labels)
        for layer in self.decoder:
            x = layer(x, memory)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    def embedded(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return functional.dropout(self.tokens(tokens) + self.places(places), DROPOUT)


@dataclass(frozen=True)
class Config:
    """One of the nine.

    Attributes:
        kind: bert, gpt or t5.
        hidden: elements of a token's vector.
        layers: of the whole model.
    """

    kind: str
    hidden: int
    layers: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.hidden}x{self.layers}"

    def build(self, batch: int = MICRO_BATCH) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """Returns the model and a batch of it, on the meta device."""
        with torch.device("meta"):
            model = Transformer(self.kind, self.hidden, self.layers).half()
            tokens = torch.zeros(batch, SEQUENCE, dtype=torch.long)
            return model, (tokens, torch.zeros_like(tokens))


CONFIGS = {
    found.name: found
    for kind in VOCABULARY
    for hidden, layers in SHAPES
    for found in [Config(kind, hidden, layers)]
}
