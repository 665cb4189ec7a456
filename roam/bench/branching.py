"""Models that branch more than those of ROAM's evaluation, as held-out graphs for the order search.

No search was tuned on them. All take images [batch, 3, size, size] and classes [batch], and return
the cross entropy.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from roam.bench.vision import CLASSES, Classifier


def densenet121(classes: int = CLASSES, growth: int = 32) -> Classifier:
    """DenseNet-121: a layer reads all before it in its block (Huang, arXiv 1608.06993, table 1)."""
    channels = 2 * growth
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        *_norm(channels),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    for block, depth in enumerate((6, 12, 24, 16)):
        if block:
            layers += [*_norm(channels), nn.Conv2d(channels, channels // 2, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            channels //= 2
        for _ in range(depth):
            layers.append(_Dense(channels, growth))
            channels += growth
    return _classifier([*layers, *_norm(channels)], channels, classes)


class _Dense(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_norm(channels),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            *_norm(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


def randwire(classes: int = CLASSES, nodes: int = 32, channels: int = 64) -> Classifier:
    """RandWire: three stages of separable convolutions, wired at random (Xie, arXiv 1904.01569).

    Here a node reads each of the eight nodes before it with a chance of 1/4. The wiring is the
    same every time.
    """
    stages = [_Wired(nodes, channels, random.Random(seed)) for seed in range(3)]
    stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
    return _classifier([stem, *stages], channels, classes)


class _Wired(nn.Module):
    def __init__(self, nodes: int, channels: int, wires: random.Random) -> None:
        super().__init__()
        self.sources = [
            [j for j in range(max(0, i - 8), i) if wires.random() < 0.25] or [max(0, i - 1)]
            for i in range(nodes)
        ]
        read = {j for sources in self.sources[1:] for j in sources}
        self.ends = [i for i in range(nodes) if i not in read]
        self.nodes = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for _ in range(nodes)
        )

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        for i, node in enumerate(self.nodes):
            made.append(node(_sum([made[j] for j in self.sources[i]] if i else [x])))
        return avg_pool2d(_sum([made[i] for i in self.ends]), 2)


def unet(classes: int = CLASSES, channels: int = 32, depth: int = 4) -> Classifier:
    """U-Net: each level down is kept for the level up (Ronneberger, arXiv 1505.04597)."""
    return _classifier([_U(3, channels, depth)], channels, classes)


class _U(nn.Module):
    """A level and those below it: [batch, made, size, size] to [batch, channels, size, size]."""

    def __init__(self, made: int, channels: int, depth: int) -> None:
        super().__init__()
        self.down = _twice(made, channels)
        self.below = _U(channels, 2 * channels, depth - 1) if depth else None
        self.up = _twice(3 * channels, channels) if depth else None

    def forward(self, x: Tensor) -> Tensor:
        kept = self.down(x)
        if self.below is None or self.up is None:
            return kept
        below = interpolate(self.below(max_pool2d(kept, 2)), scale_factor=2)
        return self.up(torch.cat([kept, below], 1))


def recurrent(classes: int = CLASSES, size: int = 32, hidden: int = 128) -> Classifier:
    """Two LSTMs over the rows of an image, one in each direction, unrolled step by step."""
    return Classifier(nn.Sequential(_BothWays(3 * size, hidden), nn.Linear(2 * hidden, classes)))


class _BothWays(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.LSTMCell(width, hidden), nn.LSTMCell(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 0, 1, 3).flatten(2)
        return torch.cat([_last(self.down, rows), _last(self.up, rows.flip(0))], 1)


def _last(cell: nn.LSTMCell, rows: Tensor) -> Tensor:
    h = c = rows.new_zeros(rows.shape[1], cell.hidden_size)
    for row in rows:
        h, c = cell(row, (h, c))
    return h


def _classifier(features: list[nn.Module], channels: int, classes: int) -> Classifier:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return Classifier(nn.Sequential(*features, *head))


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()


def _twice(made: int, channels: int) -> nn.Sequential:
    """Returns two convolutions, each with a normalization."""
    layers: list[nn.Module] = []
    for given in (made, channels):
        layers.append(nn.Conv2d(given, channels, 3, padding=1))
        layers += [nn.GroupNorm(4, channels), nn.SiLU()]
    return nn.Sequential(*layers)


def _sum(some: list[Tensor]) -> Tensor:
    return sum(some[1:], some[0])
