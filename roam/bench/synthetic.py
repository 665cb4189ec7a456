"""Generates training graphs of any size, without a model, to see how planning scales.

A layer has one to three branches. Each makes a large tensor from its input, and a small one from
that. Only the input is saved for the backward, which mirrors the forward.

    forward      x ──┬── expand ── reduce ──┬── add ── x
                     └── expand ── reduce ──┘

    backward     g ──┬── widen ──┬── dx ──┬── sum ── g
                     │           └── dw   │               fold: reads dw, changes the weight and
                     └── ...              ┘               its two states

Program order is a bad order here: the branches of a layer run side by side, and all folds last.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from roam.core.problem import Buffer, BufferId, Home, Kind, Op, Problem

KIB = 1024
SMALL = (64 * KIB, 96 * KIB, 128 * KIB, 256 * KIB)  # bytes of a layer's input
TIMES = (4, 8, 16)  # how many times as large a branch's large tensor is
WEIGHT = (64 * KIB, 512 * KIB, 2048 * KIB)  # bytes of a weight


@dataclass(frozen=True)
class _Branch:
    weight: BufferId
    large: int  # bytes of the large tensor


@dataclass(frozen=True)
class _Layer:
    reads: BufferId
    branches: tuple[_Branch, ...]


def training_graph(ops: int, seed: int = 0) -> Problem:
    """Returns a step of `ops` to `ops + 21` ops. The same seed gives the same graph."""
    builder = _Builder(random.Random(seed))
    x = builder.user("batch", Kind.INPUT, SMALL[0])
    layers: list[_Layer] = []
    count = 2  # the loss, and the first op of the backward
    while count < ops:
        x, layer = builder.forward(x)
        layers.append(layer)
        count += 8 * len(layer.branches) - 2
    builder.op("loss", reads=(x,), size=4, kind=Kind.OUTPUT)
    builder.phase = 1
    g = builder.op("tangent", reads=(x,), size=builder.buffers[x].size)
    for layer in reversed(layers):
        g = builder.backward(layer, g)
    builder.fold()
    return Problem(f"synthetic {ops}", tuple(builder.buffers), tuple(builder.ops))


@dataclass
class _Builder:
    draw: random.Random
    buffers: list[Buffer] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    phase: int = 0
    gradients: list[tuple[BufferId, BufferId]] = field(default_factory=list)  # (gradient, weight)

    def forward(self, x: BufferId) -> tuple[BufferId, _Layer]:
        size = self.draw.choice(SMALL)
        branches = tuple(
            _Branch(
                self.user("weight", Kind.PARAMETER, self.draw.choice(WEIGHT)),
                size * self.draw.choice(TIMES),
            )
            for _ in range(self.draw.choice((1, 2, 3)))
        )
        large = [self.op("expand", reads=(x, b.weight), size=b.large) for b in branches]
        small = [self.op("reduce", reads=(y,), size=size) for y in large]
        return self.total("add", small), _Layer(x, branches)

    def backward(self, layer: _Layer, g: BufferId) -> BufferId:
        size = self.buffers[layer.reads].size
        large = [self.op("widen", reads=(g,), size=b.large) for b in layer.branches]
        parts: list[BufferId] = []
        for y, branch in zip(large, layer.branches, strict=True):
            weight = self.buffers[branch.weight].size
            dw = self.op("dw", reads=(y, layer.reads), size=weight, kind=Kind.RELEASED)
            parts.append(self.op("dx", reads=(y, branch.weight), size=size))
            self.gradients.append((dw, branch.weight))
        return self.total("sum", parts)

    def total(self, what: str, parts: list[BufferId]) -> BufferId:
        """Adds ops that sum the parts, two at a time, each result written over one of the two."""
        total, *others = parts
        for part in others:
            size = self.buffers[part].size
            total = self.op(what, reads=(total, part), size=size, over=(total, part))
        return total

    def fold(self) -> None:
        for dw, weight in self.gradients:
            size = self.buffers[weight].size
            states = (self.user("m", Kind.STATE, size), self.user("v", Kind.STATE, size))
            name = f"fold_{len(self.ops)}"
            self.ops.append(Op(name, (dw,), mutates=(weight, *states), phase=self.phase))

    def op(
        self,
        what: str,
        reads: tuple[BufferId, ...],
        size: int,
        kind: Kind = Kind.TEMPORARY,
        over: tuple[BufferId, ...] = (),
    ) -> BufferId:
        name = f"{what}_{len(self.ops)}"
        home = Home.EXTERNAL if kind is Kind.OUTPUT else Home.ARENA
        made = len(self.buffers)
        self.buffers.append(Buffer(name, size, kind, home))
        pairs = tuple((made, dying) for dying in over)
        self.ops.append(Op(name, reads, (made,), over=pairs, phase=self.phase))
        return made

    def user(self, what: str, kind: Kind, size: int) -> BufferId:
        self.buffers.append(Buffer(f"{what}_{len(self.buffers)}", size, kind, Home.USER))
        return len(self.buffers) - 1
