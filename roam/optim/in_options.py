"""The optimizers that are named in the options of a `torch.compile`."""

from __future__ import annotations

import weakref
from typing import Any

from roam.optim.folding import FoldingOptimizer

named: weakref.WeakSet[FoldingOptimizer] = weakref.WeakSet()


def with_handle(options: Any) -> Any:
    """Returns the options of a `torch.compile` with a handle in place of a folding optimizer.

    The dict given stays as it is. Whatever names no folding optimizer is returned itself.
    """
    optimizer = options.get("optimizer") if isinstance(options, dict) else None
    if not isinstance(optimizer, FoldingOptimizer):
        return options
    handle = optimizer.handle
    if (itself := handle()) is not None:
        named.add(itself)
    return {**options, "optimizer": handle}
