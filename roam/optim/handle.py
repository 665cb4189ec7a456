"""A weak reference to an optimizer, which replaces it in the options of `torch.compile`.

    options of the user:              {"optimizer": opt}
    options that dynamo keeps:        {"optimizer": handle}
    what the handle refers to:        handle  ── weakly ──►  opt  ──►  parameters, moments

All handles are equal, because dynamo reuses a compiled graph only if the options are equal. Dynamo
may reuse the graph with any optimizer: a graph looks up the optimizers of its parameters each time
it runs.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NoReturn, Self

from roam.optim import refusals

if TYPE_CHECKING:
    from roam.optim.folding import FoldingOptimizer


class OptimizerHandle:
    """Stands for an optimizer without keeping it alive.

    Calling the handle returns the optimizer, or None if the optimizer was deleted or the handle
    comes from a pickle. A deep copy of options that name an optimizer contains its handle. Using
    the handle as an optimizer, such as `handle.step`, raises OptimizerCopyError.
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
        """Pickles to a handle of no optimizer: another process looks up its own optimizers."""
        return OptimizerHandle, ()

    def __repr__(self) -> str:
        return f"<handle of {self._name if self() is not None else 'an optimizer that is gone'}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise refusals.handle(name)
