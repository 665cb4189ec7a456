"""Describes folds of gradients into an optimizer's state, as far as a plan has to know them."""

from __future__ import annotations

from typing import NamedTuple


class FoldNeeds(NamedTuple):
    """All that a memory plan has to know of folding one parameter's gradient.

    Attributes:
        state: name and bytes of each state tensor that the fold changes.
        scratch: bytes that the fold allocates for itself.
        writes_parameter: whether the fold changes the parameter too.
    """

    state: tuple[tuple[str, int], ...]
    scratch: int
    writes_parameter: bool


Folds = tuple[tuple[int, FoldNeeds], ...]  # inputs of a graph whose gradients are folded, in order
