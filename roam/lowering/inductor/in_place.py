"""Finds the inputs that a kernel's outputs may overwrite, if the kernel is their last reader.

Inductor decides about in-place updates while it generates code, when it knows the order of the
kernels (`BaseSchedulerNode.decide_inplace_update`). This module repeats those conditions of that
method that do not depend on the order. It leaves out the conditions on streams and on communication
buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch._inductor import config, ir
from torch._inductor.codegen.common import BackendFeature
from torch._inductor.codegen.wrapper import can_match_buffer_size
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode, SchedulerNode

WITHOUT_MEMORY = (ir.NoneLayout, ir.MultiOutputLayout, ir.MutationLayoutSHOULDREMOVE)


def written_over(
    graph: GraphLowering, node: BaseSchedulerNode, part: BaseSchedulerNode
) -> Iterator[tuple[Any, list[str]]]:
    """Yields pairs (output of `part`, names of the buffers that this output may overwrite).

    Leaves out outputs without memory of their own. The list of names may be empty. Yields nothing
    if Inductor does not generate the code of `part` (an extern kernel), or generates no in-place
    updates.

    Args:
        graph: the graph that Inductor compiles.
        node: a fused node.
        part: one of the nodes that were fused into `node`.
    """
    if isinstance(part, SchedulerNode) and _reuses(graph, part):
        for made in (b for b in part.get_outputs() if _has_own_memory(b)):
            yield made, list(_replaceable(graph, node, part, made))


def _replaceable(
    graph: GraphLowering, node: BaseSchedulerNode, part: SchedulerNode, made: Any
) -> Iterator[str]:
    scheduler = graph.scheduler
    for dep in part.read_writes.reads:
        donated: Any = scheduler.name_to_donated_buffer.get(dep.name)
        buffer = donated or scheduler.name_to_buf.get(dep.name)
        if buffer is None or not _fits_into(made, buffer):
            continue
        if _only_use(node, part, buffer) and _one_index(node, buffer):
            yield dep.name


def could_overwrite(graph: GraphLowering, part: SchedulerNode, buffer: Any) -> bool:
    """Returns whether a node could write an output over a buffer once all other readers have run.

    Args:
        graph: the graph that Inductor compiles.
        part: the node, not fused yet.
        buffer: a buffer that the node reads.
    """
    in_place = any(u.node is part and u.can_inplace for u in buffer.users)
    made = (b for b in part.get_outputs() if _has_own_memory(b))
    return in_place and _reuses(graph, part) and any(_fits_into(m, buffer) for m in made)


def _fits_into(made: Any, buffer: Any) -> bool:
    """Returns whether an output may be written over a buffer that the kernel reads.

    The buffer must have memory that a kernel made, or be an input that the graph may overwrite. It
    must have the output's device and dtype, and the output must fill at least 95 % of it.

    made: the output, a buffer of the scheduler, as `buffer` is.
    """
    if buffer.node is None or isinstance(buffer.defining_op, NopKernelSchedulerNode):
        return False
    if isinstance(buffer.node.get_output_spec(), WITHOUT_MEMORY):
        return False
    return bool(can_match_buffer_size(buffer.node, made.node))


def _has_own_memory(buffer: Any) -> bool:
    own = buffer.node.should_allocate() and not buffer.get_aliases()
    return own and not buffer.get_mutations()


def _reuses(graph: GraphLowering, node: SchedulerNode) -> bool:
    features = graph.has_feature(node.get_device(), BackendFeature.INPLACE_BUFFERS)
    return bool(config.inplace_buffers and features)


def _only_use(node: BaseSchedulerNode, part: SchedulerNode, buffer: Any) -> bool:
    """Returns whether a part of a kernel is the last reader of a buffer, and may overwrite it.

    If an earlier kernel made the buffer, assumes that all other kernels that read the buffer have
    run. If this kernel made the buffer, other kernels that read it are later readers.

    An op that changes a tensor in place counts, as in Inductor, as a weak reader of each buffer
    that was computed from this tensor before. Unless the op runs before the part, the part may not
    overwrite such a buffer. Folds are not among these readers (`folds.may_be_overwritten` has
    removed them).

    Args:
        node: the kernel, a fused node.
        part: one of the nodes that were fused into the kernel.
        buffer: the buffer that the part may overwrite.
    """
    inside = {n.get_name() for n in node.get_nodes()}
    made_here = buffer.defining_op in node.get_nodes()
    users = [u for u in buffer.users if made_here or u.is_weak or u.get_name() in inside]
    left = [u for u in users if u.get_name() not in part.ancestors]
    return len(left) == 1 and left[0].can_inplace and left[0].node is part


def _one_index(node: BaseSchedulerNode, buffer: Any) -> bool:
    """Returns whether the ops of the kernel that read the buffer use one index expression for it.

    Looks at all reads and writes of the buffer by these ops. As in Inductor, the write of the op
    that makes the buffer does not count.
    """
    inside = [u.node for u in buffer.users if u.node in node.get_nodes()]
    deps = {d for n in inside for d in n.read_writes.reads_and_writes()}
    return len({d for d in deps if d.name == buffer.get_name()}) <= 1
