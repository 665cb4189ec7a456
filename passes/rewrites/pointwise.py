"""Finds functions of one saved tensor, element by element, that the backward multiplies by.

    forward     h ── gelu ── y
    backward    h ── ops that only h leads to ── g(h) ── · dy = dh          g is a `Pointwise`

Only their results are needed: codes of g(h) can be saved in place of h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from roam.passes.cheap_recompute import is_cheap
from roam.passes.geometry import is_equal, value
from roam.passes.graph_ops import is_pure
from roam.passes.rewrites.linear_operands import CASTS
from roam.passes.rewrites.saved import Reader, Result, SavedTensor

aten = torch.ops.aten

# ATen's backwards of activations: (dy, h, options) -> dy · g(h)
ACTIVATIONS = (
    aten.gelu_backward.default,
    aten.hardswish_backward.default,
    aten.mish_backward.default,
    aten.silu_backward.default,
    aten.softplus_backward.default,
    aten.threshold_backward.default,
    aten.hardtanh_backward.default,
)


@dataclass(frozen=True)
class Pointwise:
    """A function of a saved tensor.

    Attributes:
        of: computes it of a tensor like the saved one, or of one of any other shape.
        op: the op of the backward whose result stands for it.
        takes: positions of the arguments of `op` that its result is multiplied by: (0,) of an
            activation's backward, () of an op that makes g(h) itself.
    """

    of: Callable[[Tensor], Tensor]
    op: fx.Node
    takes: tuple[int, ...]

    def satisfies(self, claim: Callable[[Tensor, Tensor], bool]) -> bool:
        """Returns whether a claim about numbers and the function's values, in float32, is true."""
        with _disable_current_modes(), torch.no_grad():
            numbers = torch.linspace(-8, 8, 1001)
            return claim(numbers, self.of(numbers).to(torch.float32))

    def result(self, make: Callable[..., Tensor]) -> dict[fx.Node, Result]:
        """Returns how to compute the op's result.

        make: gets what is saved, and the shape and dtype of g(h); -1 is a symbolic size.
        """
        found = value(self.op)
        shape = [n if isinstance(n, int) else -1 for n in found.shape]

        def call(saved: tuple[Tensor, ...], *dy: Tensor) -> Tensor:
            made = make(saved, shape, found.dtype)
            return dy[0] * made if dy else made

        return {self.op: Result(call, self.takes)}


def pointwise(tensor: SavedTensor) -> Pointwise | None:
    """Returns the function of a tensor by which the backward multiplies; None if it reads more."""
    if not tensor.value.is_contiguous() or not all(_in_order(tensor, r) for r in tensor.readers):
        return None
    return _activation(tensor) or _decomposed(tensor)


def _in_order(tensor: SavedTensor, reader: Reader) -> bool:
    """Returns whether an op reads the elements of a tensor in the order in which they lie."""
    found = value(reader.operand)
    return found.is_contiguous() and is_equal(found.numel(), tensor.value.numel())


def _activation(tensor: SavedTensor) -> Pointwise | None:
    reader, *others = tensor.readers
    op = reader.op
    if others or op.target not in ACTIVATIONS or op.args[1] is not reader.operand:
        return None
    run: Any = partial(_derivative, op.target, op.args[2:], op.kwargs)
    return Pointwise(run, op, (0,))


def _derivative(
    backward: Callable[..., Tensor], options: tuple[Any, ...], named: Mapping[str, Any], h: Tensor
) -> Tensor:
    return backward(torch.ones_like(h), h, *options, **named)


def _decomposed(tensor: SavedTensor) -> Pointwise | None:
    """Finds ops that depend on a tensor alone, are all that read it, and end in one op."""
    if not all(is_cheap(r.op) for r in tensor.readers):
        return None
    h = {r.operand for r in tensor.readers}
    inside: dict[fx.Node, None] = {}
    for node in _from(tensor.readers[0].op):
        given = {*node.all_input_nodes}
        if given and given <= h | inside.keys() and _is_pointwise(node):
            inside[node] = None
    ends = [n for n in inside if any(u not in inside for u in n.users)]
    if len(ends) != 1 or any(r.op not in inside for r in tensor.readers):
        return None
    [end] = ends
    return Pointwise(partial(_run, frozenset(h), tuple(inside), end), end, ())


def _is_pointwise(node: fx.Node) -> bool:
    tags: Any = getattr(node.target, "tags", ())
    return is_pure(node) and (torch.Tag.pointwise in tags or node.target in CASTS)


def _run(h: frozenset[fx.Node], ops: tuple[fx.Node, ...], end: fx.Node, x: Tensor) -> Tensor:
    found: dict[fx.Node, Tensor] = dict.fromkeys(h, x)
    for op in ops:
        args, kwargs = fx.map_arg((op.args, op.kwargs), found.__getitem__)
        found[op] = op.target(*args, **kwargs)  # type: ignore[operator]
    return found[end]


def _from(node: fx.Node) -> Iterator[fx.Node]:
    """Yields a node and those behind it, in the order of the graph."""
    while node.op != "root":
        if node.op == "call_function":
            yield node
        node = node.next
