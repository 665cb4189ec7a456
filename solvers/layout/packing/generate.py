"""Generates random packing instances, by cutting a strip into rectangles that fill it.

So the height of the lowest packing is known: it is that of the strip. After `spoil` has removed
some of the rectangles' area, the height of the strip is only an upper bound on that height.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from roam.solvers.layout.greedy_fits import Rect

GRAIN = 64  # unit of sizes, in bytes: the size of every rectangle is a multiple of it
PINWHEELS = 0.2  # share of the cuts that make a pinwheel: four rectangles around a fifth one


def cut_strip(
    n: int, time: int, strip: int, seed: int, *, grain: int = GRAIN, pinwheels: float = PINWHEELS
) -> list[Rect]:
    """Cuts a strip, `time` times long and `strip` bytes high, into at most n rectangles.

    The rectangles fill the strip. Repeatedly draws a rectangle, with a probability proportional to
    its area, and cuts it. A cut divides the rectangle in two, at a time or at an address, or into a
    pinwheel: four rectangles around a fifth, which no straight cut separates. Returns fewer than n
    rectangles if all are too small to be cut.

    Args:
        n: the most rectangles.
        time: the length of the strip, as a number of times.
        strip: the height of the strip, in bytes; at least `grain`. Rounded down to a multiple of
            `grain`.
        seed: the seed of the random numbers.
        grain: the number of bytes of which the sizes of all rectangles are multiples.
        pinwheels: the share of the cuts that make a pinwheel, if the rectangle is large enough.
    """
    draw = random.Random(seed)
    cut = [(0, time, 0, strip // grain)]
    while len(cut) < n:
        areas = [(upper - lower) * (high - low) for lower, upper, low, high in cut]
        if max(areas) == 1:
            break
        k = draw.choices(range(len(cut)), areas)[0]
        lower, upper, low, high = cut[k]
        wide, tall = upper - lower, high - low
        way = draw.random()
        if way < pinwheels and min(wide, tall) >= 3 and len(cut) <= n - 4:
            a, b = sorted(draw.sample(range(lower + 1, upper), 2))
            p, q = sorted(draw.sample(range(low + 1, high), 2))
            cut[k : k + 1] = [
                (lower, b, low, p), (b, upper, low, q), (a, upper, q, high),
                (lower, a, p, high), (a, b, p, q),
            ]  # fmt: skip
        elif way < (1 + pinwheels) / 2 and wide > 1:
            t = draw.randrange(lower + 1, upper)
            cut[k : k + 1] = [(lower, t, low, high), (t, upper, low, high)]
        elif tall > 1:
            o = draw.randrange(low + 1, high)
            cut[k : k + 1] = [(lower, upper, low, o), (lower, upper, o, high)]
    draw.shuffle(cut)
    return [Rect(lower, upper, (high - low) * grain) for lower, upper, low, high in cut]


def spoil(rects: Sequence[Rect], share: float, seed: int) -> list[Rect]:
    """Shrinks some rectangles in bytes or in time, or removes them. Returns all that are left.

    The rectangles that are left no longer fill the strip from which `cut_strip` cut them, and their
    sizes need not be multiples of its `grain`.

    Args:
        rects: the rectangles.
        share: the share of the rectangles to spoil. The spoiled ones are drawn at random.
        seed: the seed of the random numbers.
    """
    draw = random.Random(seed)
    spoiled = {}
    for i in draw.sample(range(len(rects)), round(share * len(rects))):
        r = rects[i]
        way = draw.choice(("all", "bytes", "time"))
        if way == "bytes":
            spoiled[i] = [r._replace(size=draw.randint((r.size + 1) // 2, r.size))]
        elif way == "time":
            spoiled[i] = [r._replace(upper=r.upper - (r.upper - r.lower) // 2)]
        else:
            spoiled[i] = []
    return [new for i, r in enumerate(rects) for new in spoiled.get(i, [r])]
