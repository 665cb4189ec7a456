"""Describes folds of gradients into an optimizer's state, as far as a plan has to know them."""

from __future__ import annotations

from typing import Any, NamedTuple


class StoredState(NamedTuple):
    """A state tensor that lies in a tier between steps, so that a fold has to load it.

    Attributes:
        name: of the state, such as "exp_avg".
        nbytes: of the tensor.
        size, stride: where its elements lie in memory.
        dtype: of its elements, a torch.dtype.
    """

    name: str
    nbytes: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Any


class RowFolds(NamedTuple):
    """Describes the folds of a gradient that is made and folded one block of rows at a time.

    Attributes:
        rows: how many slices of dimension 0 a block has; the last block may have fewer.
        scratch: bytes that the fold of a block allocates for itself.
    """

    rows: int
    scratch: int


class FoldNeeds(NamedTuple):
    """All that a memory plan has to know of folding one parameter's gradient.

    Attributes:
        state: name and bytes of each state tensor in memory that the fold changes.
        scratch: bytes that the fold allocates for itself.
        writes_parameter: whether the fold changes the parameter too.
        stored: the state tensors that the fold changes and that lie in a tier.
        by_rows: how it may be folded in blocks; None if only whole, or if blocks would be small.
    """

    state: tuple[tuple[str, int], ...]
    scratch: int
    writes_parameter: bool
    stored: tuple[StoredState, ...] = ()
    by_rows: RowFolds | None = None

    def all_in_memory(self) -> FoldNeeds:
        """Returns the needs of a fold that loads its stored states itself: as scratch space."""
        loaded = sum(state.nbytes for state in self.stored)
        return self._replace(scratch=self.scratch + loaded, stored=())


Folds = tuple[tuple[int, FoldNeeds], ...]  # inputs of a graph whose gradients are folded, in order
