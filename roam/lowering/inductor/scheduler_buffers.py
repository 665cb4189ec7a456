"""Finds the names and the sizes of the buffers of scheduler nodes.

Inductor gives each result of a node a name, as if it were a buffer of its own:

buf1 = view of buf0          root: buf0, in whose memory buf1 lies
buf2 = mm(out=buf0)          root: buf0, which the op changes in place
buf3 = (buf4, buf5)          tuple parts: buf4, buf5, which an extern kernel makes together
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch._inductor import ir
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.utils import get_dtype_size

from roam.core.errors import UnplannableError


def root(graph: GraphLowering, name: str) -> str:
    """Returns the name of the buffer in whose memory a view, or a mutated buffer, lies.

    Returns `name` if the buffer has memory of its own.
    """
    name = graph.scheduler.mutation_real_name.get(name, name)
    buffer = graph.name_to_buffer.get(name)
    aliased = [] if buffer is None else buffer.get_inputs_that_alias_output()
    return root(graph, aliased[0]) if aliased else name


def tuple_parts(graph: GraphLowering, node: BaseSchedulerNode) -> list[str]:
    """Returns the names of the buffers of the tensors in an extern kernel's tuple of results.

    A tensor that is a view has the name of the buffer in whose memory it lies. Includes the tensors
    of tuples inside the tuple. Leaves out results that no other node takes out of the tuple.
    Returns an empty list if the node returns no tuple.
    """
    found: list[str] = []
    pending = [b for b in node.get_outputs() if isinstance(b.node.layout, ir.MultiOutputLayout)]
    while pending:
        for user in pending.pop().users:
            if isinstance(user.node, BaseSchedulerNode):
                parts = [b for b in user.node.get_outputs() if isinstance(b.node, ir.MultiOutput)]
                found += [root(graph, b.get_name()) for b in parts]
                pending += [b for b in parts if isinstance(b.node.layout, ir.MultiOutputLayout)]
    return found


def unread_inputs(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> tuple[str, ...]:
    """Returns the names of a graph's input tensors that no node uses, and that it does not return.

    For example, the backward of an average pooling takes the pooled tensor only for its shape.
    """
    used = {root(graph, name) for node in nodes for name in node.used_or_aliased_buffer_names()}
    used |= {root(graph, name) for name in graph.get_output_names()}
    tensors = (n for n, found in graph.graph_inputs.items() if isinstance(found, ir.TensorBox))
    return tuple(name for name in tensors if name not in used)


def storage_bytes(graph: GraphLowering, node: Any) -> int:
    """Returns the bytes of the storage that Inductor allocates for a buffer or an input.

    A symbolic size counts with its hint, the value that it had when the graph was traced.

    Raises:
        UnplannableError: the size depends on data.
    """
    size = graph.get_allocation_storage_size(node)
    hint = graph.sizevars.optimization_hint(size, fallback=None)
    if hint is None:
        raise UnplannableError(f"{node.get_name()}: a size that depends on data")
    return int(hint) * get_dtype_size(node.get_dtype())
