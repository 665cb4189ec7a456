"""The models of `roam bench split`: steps in which something is large for a moment only.

    heads                 the logits
    llama-mlp-16k         the middle of each MLP, on a long sequence
    contrastive-1024      the products of all images with all texts
    unet-512              the maps of its first level

The heads and the contrastive loss have the results of the layers below as parameters, so that
these get a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from roam.bench import batches, branching, zoo
from roam.bench.batches import Batch, MakeBatch
from roam.bench.chunked_head import Head
from roam.bench.order_zoo import Built
from roam.bench.zoo import Entry, gpt2


class Scorer(nn.Module):
    """A Llama without a vocabulary at its end: each token has a score."""

    def __init__(self, width: int, middle: int, layers: int = 2) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        config = LlamaConfig(
            vocab_size=512,
            hidden_size=width,
            intermediate_size=middle,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            max_position_embeddings=2**15,
            use_cache=False,
        )
        self.llama = LlamaModel(config)
        self.score = nn.Linear(width, 1)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Returns the mean square of the scores. input_ids: [batch, seq]"""
        hidden = self.llama(input_ids).last_hidden_state
        return {"loss": self.score(hidden).square().mean()}


class Contrastive(nn.Module):
    """The loss of CLIP (Radford, arXiv 2103.00020, figure 3) on the results of its two towers."""

    def __init__(self, batch: int, widths: tuple[int, int] = (768, 512), common: int = 512) -> None:
        super().__init__()
        image, text = widths
        self.images = nn.Parameter(torch.randn(batch, image))
        self.texts = nn.Parameter(torch.randn(batch, text))
        self.image_projection = nn.Linear(image, common, bias=False)
        self.text_projection = nn.Linear(text, common, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, labels: Tensor) -> dict[str, Tensor]:
        """Returns the mean over both directions. labels: [batch], the text of each image."""
        images = normalize(self.image_projection(self.images), dim=1)
        texts = normalize(self.text_projection(self.texts), dim=1)
        logits = self.log_scale.exp() * images @ texts.T
        return {"loss": (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2}


@dataclass(frozen=True)
class _Ids:
    """Draws token ids [batch, seq]."""

    batch: int
    seq: int

    def __call__(self, g: torch.Generator) -> Batch:
        return {"input_ids": torch.randint(4, 512, (self.batch, self.seq), generator=g)}


def _labels(rows: int, vocab: int) -> MakeBatch:
    return lambda g: {"labels": torch.randint(0, vocab, (rows,), generator=g)}


def _pairs(rows: int) -> MakeBatch:
    return lambda _: {"labels": torch.arange(rows)}


def head(name: str, rows: int, width: int, vocab: int, dtype: torch.dtype) -> Built:
    """Returns a head alone, with a label for each row."""
    make = partial(Head, rows, width, vocab, dtype)
    return Built(name, "Head", _labels(rows, vocab), make=make)


def scorer(name: str, seq: int, width: int, middle: int) -> Built:
    """Returns a Llama of two layers on one sequence."""
    return Built(name, "Scorer", _Ids(1, seq), make=partial(Scorer, width, middle))


def contrastive(name: str, rows: int) -> Built:
    """Returns the contrastive loss of `rows` images with as many texts."""
    return Built(name, "Contrastive", _pairs(rows), make=partial(Contrastive, rows))


def unet(name: str, size: int, channels: int = 32, depth: int = 4) -> Built:
    """Returns a U-Net on one image of `size` pixels in each direction."""
    photo = batches.image(batch=1, size=size, classes=1000)
    return Built(name, "unet", photo, make=partial(branching.unet, 1000, channels, depth))


_HEAD = {"rows": 2048, "width": 2048, "vocab": 128_256}  # the vocabulary of Llama 3
_ENTRIES: tuple[Entry, ...] = (
    gpt2("gpt2-small-b4", batch=4),
    head("head-float32", **_HEAD, dtype=torch.float32),
    head("head-bfloat16", **_HEAD, dtype=torch.bfloat16),
    scorer("llama-mlp-16k", seq=16 * 1024, width=256, middle=896),
    contrastive("contrastive-1024", rows=1024),
    unet("unet-512", size=512),
    # as quick as possible, to see that a benchmark runs
    head("head-tiny", rows=48, width=16, vocab=300, dtype=torch.float32),
    scorer("llama-mlp-tiny", seq=64, width=32, middle=112),
    contrastive("contrastive-tiny", rows=32),
    unet("unet-tiny", size=32, channels=8, depth=1),
)
SPLIT: dict[str, Entry] = {e.name: e for e in _ENTRIES}


def find(name: str) -> Entry:
    """Returns the entry of that name, of this table or of the zoo. Raises ValueError."""
    return SPLIT[name] if name in SPLIT else zoo.find(name)
