"""Lets a gradient be written over what it is computed from, in a block of rows of a split group.

    logits ──┬── loss of each row: reads one element of the row, that of the label
             └── gradient of the logits: reads each element where it writes one

Inductor lets the gradient overwrite the logits if all other readers of the logits have run. The
loss must not be in the kernel of the gradient: the element that the loss reads might be overwritten
already. But Inductor would fuse the two, since both read the logits. So the gradient is made to
wait for the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch._inductor.scheduler import BaseSchedulerNode, SchedulerNode
from torch._inductor.virtualized import V

from roam.lowering.inductor.in_place import could_overwrite

Pair = tuple[BaseSchedulerNode, BaseSchedulerNode]


def readers_first(block: Iterable[BaseSchedulerNode]) -> Iterator[list[Pair]]:
    """Yields lists of pairs (node, reader), each list for a buffer that the node may overwrite.

    The node may overwrite the buffer if every reader runs in an earlier kernel. The caller must add
    the dependencies of one list (each node waits for its reader) before it asks for the next list.
    Each list takes account of the dependencies added before, so that all of them form no cycle.

    Args:
        block: the nodes of one block, not fused yet.
    """
    nodes = [n for n in block if isinstance(n, SchedulerNode)]
    for writer in nodes:
        for read in writer.read_writes.reads:
            buffer = V.graph.scheduler.name_to_buf.get(read.name)
            if buffer is None or not could_overwrite(V.graph, writer, buffer):
                continue
            if found := _in_the_way(writer, buffer, nodes):
                yield found


def _in_the_way(writer: SchedulerNode, buffer: Any, block: Sequence[SchedulerNode]) -> list[Pair]:
    """Returns pairs (writer, reader) for one buffer: each reader has to run in an earlier kernel.

    Leaves out readers that run before the writer anyway, and those that read each element where the
    writer does, so that one kernel may contain both. Returns no pairs at all if a reader is outside
    the block or has to run after the writer.
    """
    users = [u.node for u in buffer.users if u.node is not writer]
    others = [n for n in users if n.get_name() not in writer.ancestors]
    if any(n not in block or writer.get_name() in n.ancestors for n in others):
        return []
    index = _indices(writer, buffer)
    return [(writer, n) for n in others if _indices(n, buffer) != index]


def _indices(node: BaseSchedulerNode, buffer: Any) -> set[Any]:
    """Returns the index expressions by which a node reads a buffer."""
    return {d for d in node.read_writes.reads if d.name == buffer.get_name()}
