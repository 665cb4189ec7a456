"""Networks of cells that a search has found: NASNet-A, AmoebaNet-A and DARTS.

A cell reads the outputs of the two cells before it. Each of its blocks adds two operations on what
the cell has read or made. The cell returns some of its states, concatenated.

    before ──┬── op ──┐
             │        ├── add ── state 2 ──┬── op ──┐
    last ────┼── op ──┘                    │        ├── add ── state 3 ──┬── concat
             └─────────────────────────────┼── op ──┘                    │
                                           └─────────────────────────────┘

All take images [batch, 3, size, size] and classes [batch], and return the cross entropy. Drop path
and auxiliary heads are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from roam.bench.vision import CLASSES, Classifier

BEFORE, LAST = 0, 1  # states that a cell starts with: outputs of the cell before last and the last
FILTERS = 32  # of the first convolution of an ImageNet network


@dataclass(frozen=True)
class Wiring:
    """The blocks of a cell.

    Attributes:
        blocks: (operation, state that it reads), twice a block. The first block makes state 2.
        joined: the states that the cell returns.
    """

    blocks: tuple[tuple[str, int, str, int], ...]
    joined: tuple[int, ...]


# Zoph et al., arXiv 1707.07012, figure 4: the normal cell and the reduction cell
NASNET_A = Wiring(
    (
        ("separable 3", LAST, "same", LAST),
        ("separable 3", BEFORE, "separable 5", LAST),
        ("average", LAST, "same", BEFORE),
        ("average", BEFORE, "average", BEFORE),
        ("separable 5", BEFORE, "separable 3", BEFORE),
    ),
    (BEFORE, 2, 3, 4, 5, 6),
)
NASNET_A_REDUCTION = Wiring(
    (
        ("separable 7", BEFORE, "separable 5", LAST),
        ("max", LAST, "separable 7", BEFORE),
        ("average", LAST, "separable 5", BEFORE),
        ("max", LAST, "separable 3", 2),
        ("average", 2, "same", 3),
    ),
    (3, 4, 5, 6),
)
# Real et al., arXiv 1802.01548, figure 5
AMOEBANET_A = Wiring(
    (
        ("average", BEFORE, "max", LAST),
        ("separable 3", BEFORE, "separable 5", 2),
        ("separable 3", BEFORE, "average", 3),
        ("separable 3", LAST, "same", LAST),
        ("same", BEFORE, "average", LAST),
    ),
    (4, 5, 6),
)
AMOEBANET_A_REDUCTION = Wiring(
    (
        ("average", BEFORE, "separable 3", LAST),
        ("max", BEFORE, "separable 7", 2),
        ("separable 7", BEFORE, "average", LAST),
        ("max", BEFORE, "max", LAST),
        ("1 by 7, 7 by 1", BEFORE, "separable 3", 5),
    ),
    (3, 4, 6),
)
# Liu et al., arXiv 1806.09055, figures 4 and 5: the cells learned on CIFAR-10 by the second order
DARTS = Wiring(
    (
        ("separable 3", BEFORE, "separable 3", LAST),
        ("separable 3", BEFORE, "separable 3", LAST),
        ("separable 3", LAST, "same", BEFORE),
        ("same", BEFORE, "dilated 3", 2),
    ),
    (2, 3, 4, 5),
)
DARTS_REDUCTION = Wiring(
    (
        ("max", BEFORE, "max", LAST),
        ("same", 2, "max", LAST),
        ("max", BEFORE, "same", 2),
        ("same", 2, "max", LAST),
    ),
    (2, 3, 4, 5),
)


def nasnet_a(classes: int = CLASSES, *, repeats: int = 4, width: int = 44) -> Classifier:
    """NASNet-A for ImageNet (arXiv 1707.07012, figure 2 and appendix A.4).

    The mobile network by default: 5.3 million parameters, 1056 channels at the end.

    Args:
        classes: of the images.
        repeats: normal cells in each of the three stages.
        width: filters of a cell in the first stage, a multiple of 4.
    """
    return _imagenet(NASNET_A, NASNET_A_REDUCTION, classes, repeats, width)


def amoebanet_a(classes: int = CLASSES, *, repeats: int = 4, width: int = 50) -> Classifier:
    """AmoebaNet-A for ImageNet (arXiv 1802.01548, figures 1 and 5, section 4).

    Takes the arguments of `nasnet_a`. The mobile network by default.
    """
    return _imagenet(AMOEBANET_A, AMOEBANET_A_REDUCTION, classes, repeats, width)


def darts(classes: int = 10, *, cells: int = 20, width: int = 36) -> Classifier:
    """DARTS's network for CIFAR-10 (arXiv 1806.09055, section 3.2): 3.3 million parameters.

    Args:
        classes: of the images.
        cells: in all; two of them are reduction cells, after a third and two thirds.
        width: filters of a cell before the first reduction.
    """
    given = 3 * width
    stem = nn.Sequential(nn.Conv2d(3, given, 3, padding=1, bias=False), nn.BatchNorm2d(given))
    trunk = Trunk(stem, given)
    for i in range(cells):
        reduces = i in (cells // 3, 2 * cells // 3)
        width *= 2 if reduces else 1
        trunk.append(DARTS_REDUCTION if reduces else DARTS, width, reduces=reduces)
    return Classifier(nn.Sequential(trunk, *_head(trunk.channels, classes)))


def _imagenet(
    normal: Wiring, reduction: Wiring, classes: int, repeats: int, width: int
) -> Classifier:
    stem = nn.Sequential(nn.Conv2d(3, FILTERS, 3, stride=2, bias=False), nn.BatchNorm2d(FILTERS))
    trunk = Trunk(stem, FILTERS)
    trunk.append(reduction, width // 4, reduces=True)
    trunk.append(reduction, width // 2, reduces=True)
    for stage in range(3):
        filters = width * 2**stage
        if stage:
            trunk.append(reduction, filters, reduces=True)
        for _ in range(repeats):
            trunk.append(normal, filters, reduces=False)
    layers = [trunk, nn.ReLU(), *_head(trunk.channels, classes, dropout=0.5)]
    return Classifier(nn.Sequential(*layers))


class Trunk(nn.Module):
    """A stem and cells, each of which reads the outputs of the two before it."""

    def __init__(self, stem: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem = stem
        self.cells = nn.ModuleList()
        self.channels = self.channels_before = channels
        self.reduced = False

    def append(self, wiring: Wiring, width: int, *, reduces: bool) -> None:
        """Adds a cell of `width` filters that halves height and width if it `reduces`."""
        fit = Halved if self.reduced else pointwise
        before, last = fit(self.channels_before, width), pointwise(self.channels, width)
        self.cells.append(Cell(wiring, before, last, width, 2 if reduces else 1))
        self.channels_before, self.channels = self.channels, width * len(wiring.joined)
        self.reduced = reduces

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return last


class Cell(nn.Module):
    """One cell. Its `before` and `last` fit the cell's inputs to each other."""

    def __init__(
        self, wiring: Wiring, before: nn.Module, last: nn.Module, width: int, stride: int
    ) -> None:
        super().__init__()
        self.before, self.last, self.wiring = before, last, wiring
        self.left, self.right = nn.ModuleList(), nn.ModuleList()
        for left, i, right, j in wiring.blocks:
            self.left.append(operation(left, width, stride if i in (BEFORE, LAST) else 1))
            self.right.append(operation(right, width, stride if j in (BEFORE, LAST) else 1))

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        states = [self.before(before), self.last(last)]
        for (_, i, _, j), left, right in zip(
            self.wiring.blocks, self.left, self.right, strict=True
        ):
            states.append(left(states[i]) + right(states[j]))
        return torch.cat([states[i] for i in self.wiring.joined], 1)


def operation(name: str, width: int, stride: int) -> nn.Module:
    """Returns the operation of that name on `width` channels. Raises KeyError for an unknown name.

    A separable convolution is applied twice (arXiv 1707.07012, appendix A.4).
    """
    kind, _, size = name.partition(" ")
    if kind == "separable":
        first = _depthwise(width, int(size), stride)
        return nn.Sequential(*first, *_depthwise(width, int(size), 1))
    if kind == "dilated":
        return nn.Sequential(*_depthwise(width, int(size), stride, dilation=2))
    return {
        "same": lambda: nn.Identity() if stride == 1 else Halved(width, width),
        "average": lambda: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
        "max": lambda: nn.MaxPool2d(3, stride, padding=1),
        "1 by 7, 7 by 1": lambda: _rank_one(width, stride),
    }[name]()


def pointwise(given: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width))


class Halved(nn.Module):
    """Halves height and width: two pointwise convolutions, on even pixels and on odd ones."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(given, width // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(given, width - width // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        shifted = pad(x, (-1, 1, -1, 1))  # so that both halves have one size if x's is odd
        made: Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        return made


def _depthwise(width: int, size: int, stride: int, dilation: int = 1) -> Iterator[nn.Module]:
    """A convolution of each channel by itself, then one of all channels at each pixel."""
    padding = dilation * (size // 2)
    yield nn.ReLU()
    yield nn.Conv2d(width, width, size, stride, padding, dilation, groups=width, bias=False)
    yield nn.Conv2d(width, width, 1, bias=False)
    yield nn.BatchNorm2d(width)


def _rank_one(width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(width, width, (1, 7), (1, stride), (0, 3), bias=False),
        nn.Conv2d(width, width, (7, 1), (stride, 1), (3, 0), bias=False),
        nn.BatchNorm2d(width),
    )


def _head(channels: int, classes: int, dropout: float = 0.0) -> list[nn.Module]:
    drop = [nn.Dropout(dropout)] if dropout else []
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(channels, classes)]
