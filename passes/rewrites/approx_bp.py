"""Approx-BP: 2 bits for the derivative of GELU or SiLU (ReGELU2, ReSiLU2; arXiv 2406.16282).

    forward     h ── 2-bit code of each element, four a byte                         saved
                     │  h ≤ c₁   ≤ c₂   ≤ c₃   > c₃
    derivative       │   0       a₁    a₁+a₂    1
    backward    dy · derivative of the code                                          = dh

The forward is exact. The derivative is a step function, a fixed approximation: dh and all gradients
before it are biased, without noise. Alone it gains nothing in full training: the activation's
result, which exact recompute makes of h, must then be saved for the next linear. It pays with a
rewrite of that, such as WTA-CRS, and where the next linear is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from roam.passes.rewrites.codes import pack, unpack
from roam.passes.rewrites.pointwise import Pointwise, pointwise
from roam.passes.rewrites.saved import Method, Noise, Replaced, SavedTensor

BITS = 2  # of a code
PACKED = 8 // BITS  # codes in a byte
ALIKE = 5e-3  # how far the derivative of GELU by tanh is from that by erf, at most


@dataclass(frozen=True)
class _Steps:
    """A step function: the sum of `heights[i]` over the `places[i]` that are below x."""

    heights: tuple[float, float, float]
    places: tuple[float, float, float]

    def keep(self, x: Tensor, noise: Noise) -> tuple[Tensor]:
        """Returns the codes of all elements, four a byte."""
        code: Any = sum((x > place).to(torch.uint8) for place in self.places)
        return (pack(code.reshape(-1), BITS),)

    def derivative(self, packed: Tensor, shape: Any, dtype: torch.dtype) -> Tensor:
        """Returns the derivative by the codes, of this shape."""
        code = unpack(packed, BITS).reshape(shape)
        found = torch.zeros((), dtype=dtype, device=packed.device)
        for i, height in enumerate(self.heights):
            found = found + (code > i).to(dtype) * height
        return found


# the coefficients of the paper, section 4.2
GELU = _Steps(
    (-0.04922261145617846, 1.0979632065417297, -0.048740595085551286),
    (-3.1858810036855245, -0.001178821281161997, 3.190832613414926),
)
SILU = _Steps(
    (-0.04060357190528599, 1.080925428529668, -0.040321856624382146),
    (-6.3050461001646445, -0.0008684942046214787, 6.325815242089708),
)


@dataclass(frozen=True)
class ApproxBP:
    """ReGELU2 and ReSiLU2. modules: see `SavedRewrite`."""

    modules: tuple[str, ...] = ("*",)
    name: str = "approx-bp"
    exact: bool = False

    def method(self, tensor: SavedTensor) -> Method:
        h = tensor.value
        width = h.shape[-1] if h.dim() else None
        if not h.is_contiguous() or not isinstance(width, int) or width % PACKED:
            return None
        found = pointwise(tensor)
        steps = None if found is None else _known(found)
        if found is None or steps is None:
            return None

        def derivative(saved: tuple[Tensor, ...], shape: Any, dtype: torch.dtype) -> Tensor:
            return steps.derivative(saved[0], shape, dtype)

        return Replaced(steps.keep, found.result(derivative))


def _known(function: Pointwise) -> _Steps | None:
    """Returns the steps for a function of h, if it is a derivative that is known.

    Which derivative it is, is computed, not taken from the way in which it is written.
    """
    for steps, derivative in ((GELU, _of_gelu), (SILU, _of_silu)):
        if function.satisfies(partial(_alike, derivative)):
            return steps
    return None


def _alike(derivative: Callable[[Tensor], Tensor], x: Tensor, found: Tensor) -> bool:
    return torch.allclose(found, derivative(x), atol=ALIKE)


def _of_gelu(x: Tensor) -> Tensor:
    normal = torch.distributions.Normal(0.0, 1.0)
    return normal.cdf(x) + x * normal.log_prob(x).exp()


def _of_silu(x: Tensor) -> Tensor:
    sigmoid = x.sigmoid()
    return sigmoid * (1 + x * (1 - sigmoid))
