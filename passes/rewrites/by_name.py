"""The rewrites of saved tensors that users may ask for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from roam.passes.rewrites.saved import SavedRewrite
from roam.passes.rewrites.wta_crs import WTACRS

BY_NAME: Mapping[str, Callable[[], SavedRewrite]] = {"wta-crs": WTACRS}
