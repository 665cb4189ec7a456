"""Batches for any model of transformers, from the signature of its forward and from its config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 2
LENGTHS = (16, 128)  # tokens; some models take no fewer than their blocks hold
SAMPLES = 4000
SOUNDS = ("mels", "frames", "wave")  # [mels, frames], [frames, mels], [samples]
CLASSIFIERS = ("SequenceClassification", "ImageClassification", "AudioClassification")

Batch = dict[str, Tensor]


def batches(model: nn.Module) -> Iterator[Batch]:
    """Batches that the model may take, the likeliest first.

    A config does not tell everything: is a spectrogram [mels, frames] or [frames, mels]?
    """
    maker = _Maker(model)
    known = maker.parameters
    sounds = SOUNDS if maker.has("num_mel_bins") else tuple(reversed(SOUNDS))
    heard = {"input_features", "input_values"} & set(known)
    for sound in sounds if heard else ("none",):
        for labelled in (True, False) if "labels" in known else (False,):
            for length in LENGTHS:
                yield maker.batch(sound, labelled, length)


class _Maker:
    """Makes the arguments of a model's forward by their names, the same ones every time."""

    def __init__(self, model: nn.Module) -> None:
        self.config: Any = model.config
        self.model = type(model).__name__
        self.main = getattr(model, "main_input_name", "input_ids")
        self.parameters = inspect.signature(model.forward).parameters
        self.random = torch.Generator().manual_seed(1)

    def has(self, name: str) -> bool:
        return hasattr(self.config, name)

    def find(self, *names: str, default: Any) -> Any:
        """The first of these fields that the config, or a config inside of it, has."""
        inside = getattr(self.config, "sub_configs", {})
        for name in names:
            for part in (self.config, *(getattr(self.config, n, None) for n in inside)):
                value = getattr(part, name, None)
                if value is not None:
                    return value
        return default

    def batch(self, sound: str, labelled: bool, length: int) -> Batch:
        required = [
            name
            for name, p in self.parameters.items()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        names = [n for n in dict.fromkeys((self.main, *required)) if n in self.parameters]
        if self.config.is_encoder_decoder and "decoder_input_ids" in self.parameters:
            names.append("decoder_input_ids")
        two_towers = self.model.endswith("Model") and "input_ids" in self.parameters
        names += [
            name
            for name, taken in (("bbox", True), ("pixel_values", two_towers))
            if taken and name in self.parameters and name not in names
        ]
        batch = {name: self.argument(name, sound, length) for name in names}
        if labelled:
            batch["labels"] = self.labels(batch, length)
        return batch

    def argument(self, name: str, sound: str, length: int) -> Tensor:
        if name.endswith("input_ids"):
            return self.ids(length)
        if name == "bbox":
            return torch.tensor([1, 2, 30, 40]).expand(BATCH, length, 4).contiguous()
        if name.endswith("mask"):
            return torch.ones(BATCH, length, dtype=torch.long)
        if name.startswith("pixel_values"):
            return self.normal(*self.image())
        if name in ("input_features", "input_values"):
            return self.normal(BATCH, *self.sound(name, sound))
        return self.normal(BATCH, length, self.find("hidden_size", "d_model", default=64))

    def image(self) -> tuple[int, ...]:
        side = self.find("image_size", "input_size", "resolution", default=64)
        sides = side if isinstance(side, (list, tuple)) else (side, side)
        channels = self.find("num_channels", "in_channels", "in_chans", default=3)
        shape = (channels if isinstance(channels, int) else 3, *sides)
        if "KeypointMatching" in self.model:
            return (BATCH, 2, *shape)
        return (
            (BATCH, self.config.num_frames, *shape) if self.has("num_frames") else (BATCH, *shape)
        )

    def sound(self, name: str, kind: str) -> tuple[int, ...]:
        if kind == "wave":
            return (SAMPLES,)
        fields = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel")
        mels = self.find(*fields, "input_dim", default=80)
        frames = 2 * self.find("max_source_positions", default=32)
        if name == "input_values":
            frames = self.find("max_length", default=frames)
        return (mels, frames) if kind == "mels" else (frames, mels)

    def labels(self, batch: Batch, length: int) -> Tensor:
        if any(kind in self.model for kind in CLASSIFIERS):
            return torch.randint(0, 2, (BATCH,), generator=self.random)
        if self.model.endswith("CTC"):
            return self.ids(4)  # fewer than frames of sound
        if "decoder_input_ids" in batch:
            return batch["decoder_input_ids"].clone()
        ids = batch.get("input_ids")
        return self.ids(length) if ids is None else ids.clone()

    def ids(self, length: int) -> Tensor:
        vocabulary = min(128, self.find("vocab_size", default=64))
        least = vocabulary // 2  # above the ids with a meaning
        return torch.randint(least, vocabulary, (BATCH, length), generator=self.random)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)
