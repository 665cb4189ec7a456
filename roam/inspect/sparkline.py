"""Curves as one line of text: ▁▂▃▄▅▆▇█."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(curve: Sequence[int], columns: int, top: int) -> str:
    """Returns a curve in at most `columns` characters, each as high as the most in its part.

    top: what the highest character stands for.
    """
    return "".join(
        LEVELS[max(ceil(max(part) / max(top, 1) * len(LEVELS)), 1) - 1]
        for part in (curve[first:last] for first, last in parts(len(curve), columns))
    )


def parts(length: int, columns: int) -> list[tuple[int, int]]:
    """Returns the bounds of at most `columns` parts of a sequence, about equally long."""
    columns = min(columns, length)
    edges = [c * length // columns for c in range(columns + 1)] if columns else []
    return list(pairwise(edges))
