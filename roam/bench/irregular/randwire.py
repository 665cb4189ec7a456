"""RandWire: stages of separable convolutions, wired as a random small world.

    stage input ──┬── node ──┬── node ────── node ──┐
                  │          └────────┬── node ─────┼── mean ── stage output
                  └── node ───────────┘      └──────┘

Xie et al., *Exploring Randomly Wired Neural Networks for Image Recognition* (arXiv 1904.01569).
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import torch
from torch import Tensor, nn

from roam.bench.vision import CLASSES, Classifier

NEIGHBOURS, REWIRED = 4, 0.75  # K and P of the Watts-Strogatz generator, WS(4, 0.75) in the paper


def randwire(
    classes: int = CLASSES, *, nodes: int = 32, channels: int = 78, seed: int = 1
) -> Classifier:
    """RandWire in the small regime (table 1): 5.6 million parameters.

    Args:
        classes: of the images.
        nodes: of each of the three stages.
        channels: C, those of the first stage.
        seed: of the wiring.
    """
    half = channels // 2
    layers: list[nn.Module] = [
        nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    ]
    given = channels
    for stage in range(3):
        width = channels * 2**stage
        layers.append(Stage(small_world(nodes, 3 * seed + stage), given, width))
        given = width
    layers += [nn.ReLU(), nn.Conv2d(given, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
    return Classifier(nn.Sequential(*layers))


def small_world(nodes: int, seed: int) -> list[list[int]]:
    """Returns for each node of a Watts-Strogatz graph the nodes before it that it reads.

    An edge goes from the lower number to the higher (section 3.3).
    """
    graph = nx.connected_watts_strogatz_graph(nodes, NEIGHBOURS, REWIRED, seed=seed)
    return [sorted(other for other in graph[node] if other < node) for node in range(nodes)]


class Stage(nn.Module):
    """A stage: nodes that read no node read the stage's input, with stride 2.

    Returns the mean of the nodes that no node reads.
    """

    def __init__(self, sources: Sequence[Sequence[int]], given: int, width: int) -> None:
        super().__init__()
        self.sources = sources
        read = {j for some in sources for j in some}
        self.ends = [i for i in range(len(sources)) if i not in read]
        self.nodes = nn.ModuleList(
            Node(len(some), width if some else given, width) for some in sources
        )

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        for some, node in zip(self.sources, self.nodes, strict=True):
            made.append(node([made[j] for j in some] or [x]))
        return _sum([made[i] for i in self.ends]) / len(self.ends)


class Node(nn.Module):
    """A weighted sum of what is read, ReLU, a separable convolution, a normalization (3.2)."""

    def __init__(self, reads: int, given: int, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(reads)) if reads > 1 else None
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(
                given, given, 3, stride=1 if reads else 2, padding=1, groups=given, bias=False
            ),
            nn.Conv2d(given, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, read: list[Tensor]) -> Tensor:
        if self.weights is not None:
            shares = self.weights.sigmoid()
            read = [x * share for x, share in zip(read, shares, strict=True)]
        made: Tensor = self.layers(_sum(read))
        return made


def _sum(some: list[Tensor]) -> Tensor:
    return sum(some[1:], some[0])
