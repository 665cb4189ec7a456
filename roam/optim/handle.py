"""A weak reference to an optimizer, which `torch.compile`'s options hold in its place.

    options = {"optimizer": opt}     the user's; dynamo keeps a copy of it until it is reset:
              {"optimizer": handle}  ── weakly ──►  opt  ──►  parameters, moments

All handles are equal. Dynamo compares the options to find out whether a compiled graph may be used
again, and it may: a graph looks for the optimizers of its parameters when it runs.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NoReturn, Self

from roam.optim import refusals

if TYPE_CHECKING:
    from roam.optim.folding import FoldingOptimizer


class OptimizerHandle:
    """Says that gradients shall be folded, and by which optimizer, without keeping it alive.

    Called, it returns the optimizer, or None if that is gone. It is what copying the options copies
    an optimizer to. Any other use of it raises OptimizerCopyError.
    """

    def __init__(self, optimizer: FoldingOptimizer | None = None) -> None:
        self._name = type(optimizer).__name__
        self._reference = None if optimizer is None else weakref.ref(optimizer)

    def __call__(self) -> FoldingOptimizer | None:
        return None if self._reference is None else self._reference()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OptimizerHandle)

    def __hash__(self) -> int:
        return hash(OptimizerHandle)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[OptimizerHandle], tuple[()]]:
        """In another process there is no such optimizer, and the graphs find those of there."""
        return OptimizerHandle, ()

    def __repr__(self) -> str:
        return f"<handle of {self._name if self() is not None else 'an optimizer that is gone'}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise refusals.handle(name)
