"""Finds the buffers that exist only inside a kernel. Inductor allocates no memory for them.

If fused nodes share all their loops, a buffer that only these nodes use needs no memory:

    for row:
        a = ...
        b = f(a)

If fused nodes share only their outer loops, a buffer that passes from one inner loop to another has
memory, unless it is written and read element after element as it lies in memory. Then it is a local
array as large as the inner loop:

    for row:
        for x: a[x] = ...
        for y: b = f(a[y])
"""

from __future__ import annotations

from torch._inductor import ir
from torch._inductor.codegen.cpp import OuterLoopFusedSchedulerNode
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode, SchedulerNode
from torch.utils._ordered_set import OrderedSet


def is_removed(graph: GraphLowering, name: str, node: BaseSchedulerNode) -> bool:
    """Returns whether a buffer exists only inside a node's kernel, without memory of its own.

    Args:
        graph: the graph that Inductor compiles.
        name: the buffer's name in the scheduler.
        node: a node that makes or reads the buffer.
    """
    if node.is_extern() or not _dies_in(graph, name, node):
        return False
    if not isinstance(node, OuterLoopFusedSchedulerNode):
        return True
    maker = graph.scheduler.name_to_buf[name].defining_op
    loops = node.get_outer_nodes()
    own = next((n for n in loops if maker in n.get_nodes()), None)
    return own is not None and (_dies_in(graph, name, own) or _is_local(graph, name, node))


def is_link(node: BaseSchedulerNode) -> bool:
    """Returns whether the removed buffers of a node may be links of a chain of in-place updates.

    A removed buffer exists only inside the node's kernel, and has no memory of its own. The
    in-place updates of nodes that share all their loops form chains. A removed buffer in the middle
    of a chain is a link: the end of the chain overwrites the start.

        a[i] = f(x[i]); b[i] = g(a[i])         a over x, b over a: b lies where x was

    If nodes share only their outer loops, a removed buffer may be a local array, which is in no
    chain. So none of their buffers counts as a link. This may make the planned peak too high, but
    never too low.
    """
    return not (node.is_extern() or isinstance(node, OuterLoopFusedSchedulerNode))


def _dies_in(graph: GraphLowering, name: str, node: BaseSchedulerNode) -> bool:
    within = OrderedSet(n.get_name() for n in node.get_nodes())
    return graph.scheduler.can_buffer_be_removed_through_fusion(name, within)


def _is_local(graph: GraphLowering, name: str, node: OuterLoopFusedSchedulerNode) -> bool:
    """Returns whether a buffer becomes a local array of a kernel with shared outer loops.

    Such a buffer is used by this kernel only, and written and read element after element as it lies
    in memory. Assumes that Inductor does share these loops. The conditions are those of
    `CppScheduling.codegen_outer_loop_node`.

    Args:
        graph: the graph that Inductor compiles.
        name: the buffer's name in the scheduler.
        node: the kernel.
    """
    if any(len(_ranges(n)) != node.outer_loop_fusion_depth + 1 for n in node.get_outer_nodes()):
        return False
    buffer = graph.scheduler.name_to_buf[name]
    maker = buffer.defining_op
    if not isinstance(maker, SchedulerNode) or maker.is_reduction():
        return False
    if len(maker.get_outputs()) != 1 or not isinstance(buffer.node, ir.ComputedBuffer):
        return False
    in_turn, stride = 0, 1
    for index, size in reversed(maker._body.var_ranges.items()):
        in_turn += stride * index
        stride *= size
    # a user outside of the kernel makes memory necessary, even if it only waits for the buffer
    inside = OrderedSet(node.get_nodes())
    return (
        buffer.node.get_layout().is_contiguous()
        and maker._body.get_write_expr(name) == in_turn
        and all(
            isinstance(user.node, SchedulerNode)
            and user.node in inside
            and user.node._body.get_read_expr(name) == in_turn
            for user in buffer.users
        )
    )


def _ranges(node: BaseSchedulerNode) -> tuple[object, ...]:
    """Returns how often each loop of a node runs; the loops of a reduction, if any, are last."""
    widest = max(node.get_nodes(), key=lambda n: n.is_reduction())
    group, reduction = widest.group[1]
    return (*group, *reduction)
