"""WTA-CRS: the gradient of a linear's weight from a sample of the tokens (arXiv 2305.15265).

    forward     x, [N, n] ── norms ── sample ── k rows of x, scaled, and their indices     saved
    backward    dz, [N, m] ── those rows ── dzᵀ x                                 = dW, [m, n]

dW sums over tokens, and the sample is unbiased: the expected dW is the exact one. Outputs, the
loss, dx and the gradients of biases keep every bit. The paper weighs tokens by |x_i| |dz_i|, with
|dz_i| of the last epoch; here the weight is |x_i| alone, which needs no state and is unbiased too,
with more variance.

An x that several linears read (keys and values, gate and up) is sampled once: the sample depends on
x alone, so each of their dW is unbiased. Their errors are correlated.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from roam.core.errors import OptionError
from roam.passes.rewrites.codes import BITS, Codes
from roam.passes.rewrites.linear_operands import EXACT_IN, Product, for_weights, rows_of
from roam.passes.rewrites.sampling import row_norms, threshold, winners_and_draws
from roam.passes.rewrites.saved import Method, Noise, SavedTensor, Whole

SAMPLERS = {"threshold": threshold, "winners": winners_and_draws}
STEPS = 1000  # `keep` is a number of thousandths, so that a symbolic size can be multiplied by it


@dataclass(frozen=True)
class WTACRS:
    """Keeps k = keep · N of the N rows of a linear's input for the gradient of its weight.

    Attributes:
        keep: the share of the rows, above 0 and up to 1.
        modules: see `SavedRewrite`.
        exact_in: patterns of modules whose inputs are not sampled. By default, as in the paper,
            the projections to queries, keys and values, heads, and LoRA's B; not LoRA's A.
        sampler: "threshold" (distinct rows, never more variance) or "winners" (the paper's).
        bits: of the codes of the rows that are kept, 8 or 4, rounded at random, so that dW stays
            unbiased; None keeps the rows as they are.
    """

    keep: float = 0.3
    modules: tuple[str, ...] = ("*",)
    exact_in: tuple[str, ...] = EXACT_IN
    sampler: str = "threshold"
    bits: int | None = None
    name: str = "wta-crs"
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep of wta-crs is a share above 0 and up to 1, not {self.keep!r}")
        if self.sampler not in SAMPLERS:
            valid = " or ".join(map(repr, SAMPLERS))
            raise OptionError(f"sampler of wta-crs is {valid}, not {self.sampler!r}")
        if self.bits not in (None, *BITS):
            raise OptionError(f"bits of wta-crs is 8, 4 or None, not {self.bits!r}")

    def method(self, tensor: SavedTensor) -> Method:
        if self.bits is None:
            found = for_weights(tensor, self.sample, FROM_SAMPLE, self.exact_in)
        elif self.bits == 4 and (not tensor.value.dim() or tensor.value.shape[-1] % 2):
            return None
        else:
            products = {at: self.decoded(product) for at, product in FROM_SAMPLE.items()}
            found = for_weights(tensor, self.coded, products, self.exact_in)
        return found if found is None or self.keep < 1 else Whole("all rows are kept")

    def coded(self, x: Tensor, noise: Noise) -> tuple[Tensor, ...]:
        """Returns the indices of the rows that are kept, [k], and the rows' codes."""
        rows, index = self.sample(x, noise)
        return index, *Codes(self.bits or 8).encode(rows, noise.second())

    def decoded(self, product: Product) -> Product:
        """Returns the product of codes in place of rows."""

        def call(kept: tuple[Tensor, ...], other: Tensor) -> Tensor:
            index, *codes = kept
            rows = Codes(self.bits or 8).decode(*codes).to(other.dtype)
            return product((rows, index), other)

        return call

    def sample(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Returns the scaled rows that are kept, [k, n], and their indices, [k]."""
        rows = rows_of(x)
        index, scale = SAMPLERS[self.sampler](row_norms(rows), self.count(rows.shape[0]), noise)
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision would round the scale
        scaled = rows[index] * scale.to(wide).unsqueeze(1)
        return scaled.to(x.dtype), index

    def count(self, rows: Any) -> Any:
        """Returns how many of so many rows are kept, rounded up; both may be symbolic."""
        share = Fraction(self.keep).limit_denominator(STEPS)
        return (rows * share.numerator + share.denominator - 1) // share.denominator


def _rows_first(kept: tuple[Tensor, Tensor], other: Tensor) -> Tensor:
    """Returns rowsᵀ other, summed over the rows that are kept. other: [N, m]."""
    rows, index = kept
    return torch.mm(rows.t(), other.index_select(0, index))


def _rows_last(kept: tuple[Tensor, Tensor], other: Tensor) -> Tensor:
    """Returns other rows, summed over the rows that are kept. other: [m, N]."""
    rows, index = kept
    return torch.mm(other.t().index_select(0, index).t(), rows)


FROM_SAMPLE = {0: _rows_first, 1: _rows_last}
