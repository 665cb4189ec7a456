"""Passes over FX graphs, one a file. Imported as `roam.passes`.

Read `pipeline` first: it says what a pass is. `rewrites/` changes what a graph runs, `annotations/`
notes facts about nodes in `node.meta`, `gradient_release` ends gradients in folds. `geometry`
answers questions about the memory of fake tensors, for passes and for capture.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roam.passes.rewrites.wta_crs import WTACRS

__all__ = ["WTACRS"]

if __name__ != "roam.passes":
    raise ImportError(f"this package is roam.passes, not {__name__}")

_LAZY = {"WTACRS": "roam.passes.rewrites.wta_crs"}  # imported when asked for: they import torch


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'roam.passes' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
