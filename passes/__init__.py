"""Passes over FX graphs, one a file. Imported as `roam.passes`.

Read `pipeline` first: it defines what a pass is. `rewrites/` changes what a graph runs,
`annotations/` notes facts about nodes in `node.meta`, `gradient_release` folds gradients in the
graph. `recompute_copies`, `move_to_tier` and `save_bases` add copies of ops and transfers, and
change what is saved. `cheap_recompute` chooses tensors that Inductor does not save, `fold_rows`
makes and folds large gradients in blocks of rows.

The others help passes: `geometry` (memory of fake tensors), `graph_ops`, `dependencies`, `traced`,
`stand_ins` (nodes and graphs), `sliced` (slices of results), `scatters`, `replays` (recomputing
with the same bits), `collectives`, and `add_mm` and `transfer_ops` (ops of roam's own).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roam.passes.rewrites.approx_bp import ApproxBP
    from roam.passes.rewrites.quantized import Quantized
    from roam.passes.rewrites.rad import RAD
    from roam.passes.rewrites.relu_bits import ReluBits
    from roam.passes.rewrites.velora import VeLoRA
    from roam.passes.rewrites.wta_crs import WTACRS

__all__ = ["RAD", "WTACRS", "ApproxBP", "Quantized", "ReluBits", "VeLoRA"]

if __name__ != "roam.passes":
    raise ImportError(f"this package is roam.passes, not {__name__}")

_LAZY = {  # imported when asked for: they import torch
    "ApproxBP": "roam.passes.rewrites.approx_bp",
    "Quantized": "roam.passes.rewrites.quantized",
    "RAD": "roam.passes.rewrites.rad",
    "ReluBits": "roam.passes.rewrites.relu_bits",
    "VeLoRA": "roam.passes.rewrites.velora",
    "WTACRS": "roam.passes.rewrites.wta_crs",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'roam.passes' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
