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

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from roam.passes.cheap_recompute import is_cheap
from roam.passes.geometry import is_view, value
from roam.passes.rewrites.saved import Method, Noise, Replaced, Result, SavedTensor

aten = torch.ops.aten
PACKED = 4  # codes in a byte
ALIKE = 5e-3  # how far the derivative of GELU by tanh is from that by erf, at most


@dataclass(frozen=True)
class _Steps:
    """A step function: the sum of `heights[i]` over the `places[i]` that are below x."""

    heights: tuple[float, float, float]
    places: tuple[float, float, float]

    def keep(self, x: Tensor, noise: Noise) -> tuple[Tensor]:
        """Returns the codes of all elements, four a byte."""
        code = sum((x > place).to(torch.uint8) for place in self.places)
        packed: Any = code.reshape(-1, PACKED)  # type: ignore[union-attr]
        packed = packed[:, 0] | packed[:, 1] << 2 | packed[:, 2] << 4 | packed[:, 3] << 6
        return (packed,)

    def derivative(self, packed: Tensor, shape: Any, dtype: torch.dtype) -> Tensor:
        """Returns the derivative by the codes, of this shape."""
        code = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], 1).reshape(shape)
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
        found = _op(tensor) or _decomposed(tensor)
        return None if found is None else Replaced(found[0].keep, found[1])


_Found = tuple[_Steps, dict[fx.Node, Result]]


def _op(tensor: SavedTensor) -> _Found | None:
    """Finds ATen's derivative of the activation, if nothing else reads the tensor."""
    if len(tensor.readers) != 1:
        return None
    op = tensor.readers[0].op
    steps = _BACKWARDS.get(op.target)
    if steps is None or op.args[1] is not tensor.readers[0].operand:
        return None
    shape, dtype = _shape(value(op)), value(op).dtype

    def call(saved: tuple[Tensor], dy: Tensor) -> Tensor:
        return dy * steps.derivative(saved[0], shape, dtype)

    return steps, {op: Result(call, (0,))}


def _decomposed(tensor: SavedTensor) -> _Found | None:
    """Finds pointwise ops that make a derivative of the tensor alone, and are all that read it.

    Which derivative that is, is computed, not taken from the way in which it is written.
    """
    if not all(is_cheap(r.op) for r in tensor.readers):
        return None
    h = {r.operand for r in tensor.readers}
    inside: dict[fx.Node, None] = {}
    for node in _from(tensor.readers[0].op):
        given = {*node.all_input_nodes}
        pointwise = is_cheap(node) and not is_view(node) and node.target is not operator.getitem
        if pointwise and given and given <= h | inside.keys():
            inside[node] = None
    ends = [n for n in inside if any(u not in inside for u in n.users)]
    if len(ends) != 1 or any(r.op not in inside for r in tensor.readers):
        return None
    [end] = ends
    steps = _known(h, inside, end)
    if steps is None:
        return None
    shape, dtype = _shape(value(end)), value(end).dtype

    def call(saved: tuple[Tensor]) -> Tensor:
        return steps.derivative(saved[0], shape, dtype)

    return steps, {end: Result(call, ())}


def _from(node: fx.Node) -> Iterator[fx.Node]:
    """Yields a node and those behind it, in the order of the graph."""
    while node.op != "root":
        if node.op == "call_function":
            yield node
        node = node.next


def _known(h: set[fx.Node], ops: Iterable[fx.Node], end: fx.Node) -> _Steps | None:
    """Returns the steps for a function of h, if it is a derivative that is known."""
    with _disable_current_modes(), torch.no_grad():
        points = torch.linspace(-8, 8, 1001)
        found: dict[fx.Node, Tensor] = dict.fromkeys(h, points)
        for op in ops:
            args, kwargs = fx.map_arg((op.args, op.kwargs), found.__getitem__)
            found[op] = op.target(*args, **kwargs)  # type: ignore[operator]
        normal = torch.distributions.Normal(0.0, 1.0)
        gelu = normal.cdf(points) + points * normal.log_prob(points).exp()
        sigmoid = points.sigmoid()
        silu = sigmoid * (1 + points * (1 - sigmoid))
        for steps, derivative in ((GELU, gelu), (SILU, silu)):
            if torch.allclose(found[end].to(torch.float32), derivative, atol=ALIKE):
                return steps
    return None


def _shape(like: Tensor) -> list[Any]:
    """Returns a shape with -1 in place of a symbolic size."""
    return [n if isinstance(n, int) else -1 for n in like.shape]


_BACKWARDS: dict[Any, _Steps] = {aten.gelu_backward.default: GELU, aten.silu_backward.default: SILU}
