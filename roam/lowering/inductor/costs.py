"""Finds out how many seconds each of Inductor's kernels takes, without compiling any.

kernel                 how its seconds are found
---------------------  -------------------------------------------------------------------------
extern kernel          the cost of its operator, measured or estimated, on operands laid out as
                       Inductor lays them out. If the operator is unknown, or one that is never
                       run to be measured (`extern_calls`), an estimate as for a fused kernel
fused kernel           an estimate: the time to move the bytes that the kernel reads and writes.
                       Inductor counts the bytes. (Inductor's own estimate of the time is 0 on a
                       CPU)
template (of Triton    an estimate: as for a fused kernel, or the time of its matrix products,
or C++)                whichever is longer
fold of a gradient     an estimate: the time to move the gradient, the optimizer's state and the
into an optimizer      parameter
part of a tuple, nop   no cost

The rates behind the estimates (bytes and operations a second) are measured on this machine. If
`roam.plan` was given another `machine`, they are those of that machine's description.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode

from roam.capture.op_costs import Cost
from roam.capture.roofline import OpWork, fold_work
from roam.capture.symbolic_sizes import Numbers
from roam.capture.usual_costs import Costs
from roam.lowering.inductor.origins import origin
from roam.lowering.inductor.scratch import extern_calls
from roam.passes.gradient_release import META


def kernel_costs(
    graph: GraphLowering, nodes: Sequence[BaseSchedulerNode], costs: Costs
) -> dict[str, Cost]:
    """Returns the cost in seconds of each node that is a kernel, by the node's name.

    Leaves out nodes that cost nothing, and nodes whose cost is unknown because their device is not
    in this machine.

    Args:
        graph: the graph that Inductor compiles.
        nodes: the fused nodes of the graph.
        costs: finds the costs of operators, measured or estimated, and estimates the time of given
            numbers of bytes and operations.
    """
    calls, names = extern_calls(graph, nodes)
    found = {names[call]: cost for call, cost in costs.of([calls], Numbers()).items()}
    works = {n.get_name(): work for n in nodes for work in _works(n) if n.get_name() not in found}
    return found | costs.estimated(works)


def _works(node: BaseSchedulerNode) -> Iterator[OpWork]:
    kernel: Any = node.node
    called = origin(kernel) if node.is_extern() else None
    if called is not None and META in called.meta:
        yield fold_work(called.meta[META], Numbers())
        return
    device, moved = node.get_device(), node.get_read_write_buffers_sizes()
    if device is not None and moved:
        dtypes = (b.node.maybe_get_dtype() for b in node.get_outputs())
        dtype = next((d for d in dtypes if d is not None), torch.float32)
        yield OpWork(device.type, moved, float(node.estimate_flops() or 0), dtype)
