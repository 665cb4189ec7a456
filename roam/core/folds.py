"""What a plan has to know of the folds of gradients into an optimizer's state."""

from __future__ import annotations

from typing import NamedTuple


class FoldNeeds(NamedTuple):
    """What a plan depends on of the optimizer that folds a parameter's gradient, and no more.

    state: name and bytes of each tensor of the state that the fold changes. scratch: bytes that the
    fold allocates for itself. writes_parameter: whether it changes the parameter too.
    """

    state: tuple[tuple[str, int], ...]
    scratch: int
    writes_parameter: bool


Folds = tuple[tuple[int, FoldNeeds], ...]  # inputs of a graph whose gradients are folded, in order
