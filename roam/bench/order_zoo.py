"""The models of `roam bench order`, at the sizes of ROAM's evaluation, and their Problems.

    entry = ORDER["alexnet-b32"]
    problem = captured(entry, folds=True)       # the whole step: forward, backward, update

Models are captured on tensors without data, so capturing GPT2-XL takes as little memory as AlexNet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from roam.bench import batches, branching, vision
from roam.bench.batches import MakeBatch
from roam.bench.irregular import cells, experts, randwire, recurrent, two_tower
from roam.bench.zoo import FULL, LARGE, Entry, gpt2, loss_of
from roam.core.errors import OfflineError
from roam.core.problem import Problem
from roam.offline import problems
from roam.optim import AdamA

DROP_IN, WHOLE = "drop-in", "whole"  # gradients are kept; gradients are folded in the backward


@dataclass(frozen=True)
class Built(Entry):
    """A model that transformers does not have.

    make: builds it. `model` is its name, not a class.
    """

    make: Callable[[], nn.Module] = vision.alexnet

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().train()


def captured(entry: Entry, *, folds: bool) -> Problem:
    """Captures the entry's step.

    Args:
        entry: the model and its batch.
        folds: whether AdamA updates each parameter inside the backward.

    Raises:
        OfflineError: the model's graph breaks. Also raises what `roam.plan` raises.
    """
    with torch.device("meta"):
        model = entry.build()
    optimizer = AdamA(model.parameters()) if folds else None
    batch: dict[str, Any] = dict(entry.batch())
    found = problems(model, loss=loss_of, optimizer=optimizer, **batch)
    if len(found) != 1:
        raise OfflineError(f"{entry.name} has {len(found)} graphs: only one is ordered at once")
    return found[0]


def _photos(batch: int) -> MakeBatch:
    return batches.image(batch=batch, size=224, classes=1000)


def _text(entry: Entry, batch: int, seq: int, vocab: int) -> Entry:
    make = batches.text(batch=batch, seq=seq, vocab=vocab)
    return replace(entry, name=f"{entry.name}-b{batch}", make_batch=make)


def _entries() -> dict[str, Entry]:
    found: list[Entry] = []
    for model in ("alexnet", "vgg11", "mnasnet"):
        make = getattr(vision, model)
        found += [Built(f"{model}-b{n}", model, _photos(n), make=make) for n in (1, 32)]
    for model in ("mobilenet-v2", "efficientnet-b0", "resnet-50", "vit-b-16"):
        found += [
            replace(FULL[model], name=f"{model}-b{n}", make_batch=_photos(n)) for n in (1, 32)
        ]
    found += [_text(FULL["bert-base"], n, 512, vocab=30522) for n in (1, 32)]
    found.append(gpt2("gpt2-small-b1"))
    found += [_text(LARGE["gpt2-xl"], n, 1024, vocab=50257) for n in (1, 2, 4)]
    return {e.name: e for e in found}


def _branching() -> dict[str, Entry]:
    rows = batches.image(batch=16, size=32, classes=1000)
    found: list[Entry] = [
        Built("densenet121-b8", "densenet121", _photos(8), make=branching.densenet121),
        Built("randwire-b8", "randwire", _photos(8), make=branching.randwire),
        Built("unet-b4", "unet", _photos(4), make=branching.unet),
        Built("recurrent-b16", "recurrent", rows, make=branching.recurrent),
    ]
    return {e.name: e for e in found}


def _irregular() -> dict[str, Entry]:
    """Batches are such that the gradients are no small part of the activations."""
    small = batches.image(batch=4, size=32, classes=10)
    penn = batches.text(batch=20, seq=200, vocab=10_000)
    text = batches.text(batch=4, seq=256, vocab=32_000)
    found: list[Entry] = [
        Built("nasnet-a-b2", "nasnet-a", _photos(2), make=cells.nasnet_a),
        Built("amoebanet-a-b2", "amoebanet-a", _photos(2), make=cells.amoebanet_a),
        Built("darts-b4", "darts", small, make=cells.darts),
    ]
    for seed in (1, 2, 3):
        make = partial(randwire.randwire, seed=seed)
        found.append(Built(f"randwire-{seed}-b2", f"randwire-{seed}", _photos(2), make=make))
    found += [
        Built("lstm-200-b20", "lstm-200", penn, make=recurrent.UnrolledLSTM),
        Built("experts-16-b4", "experts-16", text, make=experts.ExpertDecoder),
        Built("two-tower-b512", "two-tower", two_tower.visits(512), make=two_tower.TwoTower),
    ]
    return {e.name: e for e in found}


ORDER: dict[str, Entry] = _entries()
BRANCHING: dict[str, Entry] = _branching()  # not in ROAM's evaluation: run only if named
IRREGULAR: dict[str, Entry] = _irregular()  # the networks of `roam bench order --wide`
EVERY = ORDER | BRANCHING | IRREGULAR
