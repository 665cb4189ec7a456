"""Batches of random numbers: token ids, images, sound. Each function returns a maker."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Batch = dict[str, Tensor]
MakeBatch = Callable[[torch.Generator], Batch]


def text(batch: int = 4, seq: int = 128, vocab: int = 512) -> MakeBatch:
    """Token ids [batch, seq], which are their own labels."""

    def make(g: torch.Generator) -> Batch:
        ids = torch.randint(4, vocab, (batch, seq), generator=g)
        return {"input_ids": ids, "labels": ids.clone()}

    return make


def seq2seq(batch: int = 4, seq: int = 64, vocab: int = 512) -> MakeBatch:
    """Source ids and target labels, both [batch, seq]."""

    def make(g: torch.Generator) -> Batch:
        source, target = torch.randint(4, vocab, (2, batch, seq), generator=g)
        return {"input_ids": source, "labels": target}

    return make


def image(batch: int = 2, size: int = 64, channels: int = 3, classes: int = 2) -> MakeBatch:
    """Images [batch, channels, size, size] and a class each."""

    def make(g: torch.Generator) -> Batch:
        pixels = torch.randn(batch, channels, size, size, generator=g)
        return {
            "pixel_values": pixels,
            "labels": torch.randint(0, classes, (batch,), generator=g),
        }

    return make


def wave(batch: int = 2, samples: int = 8000) -> MakeBatch:
    """Raw sound [batch, samples], without labels."""
    return lambda g: {"input_values": torch.randn(batch, samples, generator=g)}


def mel(
    batch: int = 2, mels: int = 80, frames: int = 200, seq: int = 32, vocab: int = 512
) -> MakeBatch:
    """A spectrogram [batch, mels, frames] and target labels [batch, seq]."""

    def make(g: torch.Generator) -> Batch:
        features = torch.randn(batch, mels, frames, generator=g)
        return {
            "input_features": features,
            "labels": torch.randint(4, vocab, (batch, seq), generator=g),
        }

    return make


def image_and_text(batch: int = 4, size: int = 64, seq: int = 32, vocab: int = 512) -> MakeBatch:
    """Images [batch, 3, size, size] and a caption [seq] each, without labels."""

    def make(g: torch.Generator) -> Batch:
        return {
            "input_ids": torch.randint(4, vocab, (batch, seq), generator=g),
            "pixel_values": torch.randn(batch, 3, size, size, generator=g),
        }

    return make
