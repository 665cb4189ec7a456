"""Graphs to run a pass on: one op with real values, or a function traced with fake ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from roam.runtime.blocks import carve


def trace(fn: Callable[..., Any], *args: Any) -> fx.GraphModule:
    """The ATen graph of a function, as AOTAutograd would hand it over: with fake values."""
    module = make_fx(fn, tracing_mode="fake")(*args)
    assert isinstance(module, fx.GraphModule)
    return module


def node_of(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> fx.Node:
    """A graph of one op. The values of its nodes are real: a pass cannot tell."""
    graph = fx.Graph()
    inputs: dict[int, fx.Node] = {}

    def placeholder(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in inputs:
            inputs[id(x)] = graph.placeholder(f"x{len(inputs)}")
            inputs[id(x)].meta["val"] = x
        return inputs[id(x)]

    node_args, node_kwargs = _pytree.tree_map(placeholder, (tuple(args), dict(kwargs)))
    node = graph.call_function(op, node_args, node_kwargs)
    node.meta["val"] = result
    graph.output(node)
    return node


def every_op() -> Iterator[Any]:
    """Every overload of every ATen op."""
    for name in sorted(dir(torch.ops.aten)):
        packet = getattr(torch.ops.aten, name)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            yield from (getattr(packet, o) for o in packet.overloads())  # type: ignore[no-untyped-call]


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's elements: NaN equals itself, and 0.0 is not -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def own_memory(tensor: Tensor) -> Tensor:
    """A copy with the same strides, in memory of its own."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return copy.copy_(tensor)


def garbage(like: Tensor) -> Tensor:
    """Memory with the tensor's strides and values that no op would leave there."""
    fill = float("nan") if like.is_floating_point() else 1
    empty = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return empty.fill_(fill)


MARGIN, UNTOUCHED = 256, 0xA5


class Carved:
    """A tensor like another one, within a larger block whose other bytes nobody may touch."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.end = MARGIN + like.numel() * like.element_size()
        self.block = torch.full((self.end + MARGIN,), UNTOUCHED, dtype=torch.uint8)
        self.tensor = carve(self.block, MARGIN, like.dtype, like.shape, like.stride())

    def is_in_place(self) -> bool:
        """Whether the tensor still lies where it was carved, and all around it is as it was."""
        around = torch.cat((self.block[:MARGIN], self.block[self.end :]))
        same_place = self.tensor.data_ptr() == self.block.data_ptr() + MARGIN
        same_form = (self.tensor.shape, self.tensor.stride()) == (
            self.like.shape,
            self.like.stride(),
        )
        return same_place and same_form and bool((around == UNTOUCHED).all())


def printed(module: fx.GraphModule) -> str:
    """The graph one line a node, as short as can be: `add = add(x, 1)`."""
    return "\n".join(line for line in map(_line, module.graph.nodes) if line)


def _line(node: fx.Node) -> str:
    if node.op == "placeholder":
        return ""
    if node.op == "output":
        return f"return {node.args[0]}"
    target = getattr(node.target, "_schema", None)
    name = target.name.split("::")[1] if target else getattr(node.target, "__name__", "?")
    given = [str(a) for a in node.args] + [f"{k}={v}" for k, v in node.kwargs.items()]
    return f"{node.name} = {name}({', '.join(given)})"
