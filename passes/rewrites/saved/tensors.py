"""Finds the tensors that the forward saves for the backward, and the ops that read them.

forward     x ── op ── y ── view ──────── ...
                       │
backward               └── view ── t ── mm        y is saved; mm reads it, through two views
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes.geometry import is_view, value
from roam.passes.graph_ops import module_path


@dataclass(frozen=True)
class Reader:
    """An op of the backward that reads a saved tensor.

    Attributes:
        op: the op.
        operand: what it reads: the tensor, or a view of it.
    """

    op: fx.Node
    operand: fx.Node


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that an op of the forward makes and ops of the backward read.

    Attributes:
        node: the op, or the item of its result.
        readers: the ops of the backward that read it, in the order of the graph.
        returned: whether the forward returns it, so that it stays alive in any case.
    """

    node: fx.Node
    readers: tuple[Reader, ...]
    returned: bool

    @property
    def value(self) -> Tensor:
        found: Tensor = value(self.node)
        return found

    @property
    def bytes(self) -> int:
        """Its bytes; with dynamic sizes those of the sizes that were traced."""
        return size_of(self.value)

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of the modules whose backward reads it."""
        return tuple(dict.fromkeys(module_path(r.op) for r in self.readers))

    @property
    def is_checkpointed(self) -> bool:
        """Whether it is made in a region of checkpoint(), which runs again instead."""
        return self.node.meta.get("recompute") is not None


def saved_tensors(graph: fx.Graph) -> list[SavedTensor]:
    """Returns the saved tensors of a joint graph, in the order in which the forward makes them."""
    place = {n: i for i, n in enumerate(graph.nodes)}
    return [t for node in graph.nodes if (t := _saved(node, place)) is not None]


def size_of(tensor: Tensor) -> int:
    """Returns the bytes of a tensor; symbolic sizes count as those that were traced."""
    found: Any = tensor.numel() * tensor.element_size()
    return found if isinstance(found, int) else int(found.node.hint)


def is_late(node: fx.Node) -> bool:
    """Returns whether a node belongs to the backward."""
    return node.meta.get("partitioner_tag") == "is_backward"


def aliases(node: fx.Node) -> Iterator[fx.Node]:
    """Yields a tensor and all views of it, views of views included."""
    yield node
    for user in node.users:
        if is_view_of(user, node):
            yield from aliases(user)


def is_view_of(user: fx.Node, node: fx.Node) -> bool:
    """Returns whether an op makes a view of a node's result, or takes one out of a tuple."""
    if user.target is operator.getitem:
        return is_view(node)
    return user.op == "call_function" and is_view(user) and user.args[0] is node


def base_of(node: fx.Node) -> fx.Node:
    """Returns the node of whose result a node is a view; the node itself if it is none."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        if not is_view_of(node, node.args[0]):
            break
        node = node.args[0]
    return node


def _saved(node: fx.Node, place: Mapping[fx.Node, int]) -> SavedTensor | None:
    made = node.op == "call_function" and not is_late(node) and base_of(node) is node
    if not made or not isinstance(value(node), torch.Tensor):
        return None
    readers, returned = [], False
    for alias in aliases(node):
        for user in alias.users:
            if user.op == "output":
                returned = True
            elif is_late(user) and not is_view_of(user, alias):
                readers.append(Reader(user, alias))
    if not readers:
        return None
    return SavedTensor(node, tuple(sorted(readers, key=lambda r: place[r.op])), returned)
