"""RAD: the gradient of a linear's weight from random projections of its input (arXiv 2007.10412).

    forward     x, [N, n] ── x R, with R of random signs, [n, r]                     saved, [N, r]
    backward    dzᵀ (x R) Rᵀ                                              = dW, for E[R Rᵀ] = 1

Unbiased; R is drawn again of its seed. An entry of dW has the variance (|row|² - entry²) / r, with
the norm of its row of dW: the error is sqrt(n / r) times dW, whatever x is like. A sample of tokens
of as many bytes (WTA-CRS) does better if tokens differ in weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roam.core.errors import OptionError
from roam.passes.rewrites.linear_operands import EXACT_IN, for_weights, rows_of
from roam.passes.rewrites.saved import Method, Noise, SavedTensor


@dataclass(frozen=True)
class RAD:
    """Keeps r = keep · n numbers of the n of each token.

    Attributes:
        keep: the share, above 0 and below 1.
        modules: see `SavedRewrite`.
        exact_in: patterns of modules whose inputs are saved whole.
    """

    keep: float = 0.1
    modules: tuple[str, ...] = ("*",)
    exact_in: tuple[str, ...] = EXACT_IN
    name: str = "rad"
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise OptionError(f"keep of rad is a share between 0 and 1, not {self.keep!r}")

    def method(self, tensor: SavedTensor) -> Method:
        width = tensor.value.shape[-1] if tensor.value.dim() else None
        if not isinstance(width, int):
            return None
        kept = max(1, round(self.keep * width))

        def signs(noise: Noise, like: Tensor) -> Tensor:
            drawn = noise.uniform(width * kept).reshape(width, kept)
            return torch.where(drawn < 0.5, -1.0, 1.0).to(like.dtype) / kept**0.5

        def keep(x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
            own = noise.alone()
            return rows_of(x) @ signs(own, x), own.seed

        def first(saved: tuple[Tensor, Tensor], other: Tensor) -> Tensor:
            projected, seed = saved
            return signs(Noise(seed), other) @ (projected.t() @ other)

        def last(saved: tuple[Tensor, Tensor], other: Tensor) -> Tensor:
            projected, seed = saved
            return (other @ projected) @ signs(Noise(seed), other).t()

        return for_weights(tensor, keep, {0: first, 1: last}, self.exact_in)
