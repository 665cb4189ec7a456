"""The rewrites of saved tensors that users may ask for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from roam.passes.rewrites.approx_bp import ApproxBP
from roam.passes.rewrites.quantized import Quantized
from roam.passes.rewrites.rad import RAD
from roam.passes.rewrites.saved import SavedRewrite
from roam.passes.rewrites.velora import VeLoRA
from roam.passes.rewrites.wta_crs import WTACRS

_ALL: tuple[Callable[[], SavedRewrite], ...] = (WTACRS, Quantized, ApproxBP, RAD, VeLoRA)
BY_NAME: Mapping[str, Callable[[], SavedRewrite]] = {made().name: made for made in _ALL}
