"""Replaces the optimizer in the options of `torch.compile` by a handle, a weak reference.

Remembers all optimizers that options have named, without keeping the optimizers alive.
"""

from __future__ import annotations

import weakref
from typing import Any

from roam.optim.folding import FoldingOptimizer

# the optimizers that were named in options of torch.compile
named: weakref.WeakSet[FoldingOptimizer] = weakref.WeakSet()


def with_handle(options: Any) -> Any:
    """Returns a copy of the options with a handle (weak reference) for the folding optimizer.

    Adds the optimizer to `named`. Returns `options` itself if it names no folding optimizer.
    """
    optimizer = options.get("optimizer") if isinstance(options, dict) else None
    if not isinstance(optimizer, FoldingOptimizer):
        return options
    handle = optimizer.handle
    if (itself := handle()) is not None:
        named.add(itself)
    return {**options, "optimizer": handle}
