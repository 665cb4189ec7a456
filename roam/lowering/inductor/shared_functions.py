"""Decides which neighbouring nodes become one C++ function.

On the CPU Inductor puts all nodes between two extern kernels into one function. Buffers that die
within the function are freed only at its end:

    op4 [ buf4 ]              three functions: buf4 is freed before buf6 is made
    op5    [ buf5 ]           one function: all three buffers are held until op6 is done
    op6       [ buf6 ]

So roam ends a function before a node at which the held bytes, of live and of dead buffers, would
exceed the planned peak. Otherwise nodes stay together, which saves calls and runs of the C++
compiler. The planner knows which nodes can share a function, and moves them next to each other
(solvers/order/adjacent_calls.py).

On all devices, Inductor also holds on to dead buffers, to reuse them for later buffers of the same
size, if by its estimate the bytes then held stay below the peak. The estimate omits scratch space
and takes no account of buffers that overwrite others, so such a reuse could raise the peak. So roam
gives Inductor the planned numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch._inductor import config
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.segmented_tree import SegmentedTree
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

from roam.core.plan import Plan, allocations
from roam.core.problem import Problem


@dataclass(frozen=True)
class Functions:
    """A division of a graph's nodes into C++ functions.

    Attributes:
        ends: names of the nodes that end a function.
        held: by position of a node in the planned order, the bytes held while the node runs: of
            buffers that are alive, or that are dead but freed only at the end of the function.
        most: by position of a node in the planned order, the limit on the bytes that the code may
            hold while the node runs, dead buffers that Inductor keeps for reuse included.
    """

    ends: frozenset[str]
    held: tuple[int, ...]
    most: tuple[int, ...]


def sharing(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> frozenset[int]:
    """Returns the positions of the nodes that can share one C++ function if they run in succession.

    These are the nodes that Inductor generates in C++, extern kernels and templates left out.
    """
    return frozenset(
        k
        for k, node in enumerate(nodes)
        if _cpp(graph, node) is not None and not (node.is_extern() or node.is_template())
    )


def functions(
    problem: Problem,
    plan: Plan,
    nodes: Sequence[BaseSchedulerNode],
    sharing: frozenset[int],
    *,
    complete: bool = True,
) -> Functions:
    """Divides nodes into the fewest C++ functions with which memory stays within the planned peak.

    Makes each function as long as possible, from the first node on. That is optimal: if a function
    has room for a further node, then so has a function that begins later, because it holds fewer
    dead buffers.

    Args:
        problem: the Problem that was planned.
        plan: the plan.
        nodes: the nodes of the graph: the last ops of the plan, in the plan's order.
        sharing: the ops that may share a function.
        complete: whether no backward is compiled after this graph. If False, `Functions.most` is
            not the peak, but the highest value of `held` up to the node: the room up to the peak is
            left to the blocks of saved tensors in the backward's plan.
    """
    curve = plan.committed(problem)
    dying = [0] * (len(curve) + 1)
    for ended in allocations(problem, plan.order, plan.reuse, plan.offsets, plan.blocks):
        dying[ended.upper] += ended.size
    peak = max(curve, default=0)
    first = len(curve) - len(nodes)
    ends: set[str] = set()
    dead = [0] * len(nodes)
    for t in range(1, len(nodes)):
        if not sharing.issuperset(plan.order[first + t - 1 : first + t + 1]):
            continue
        dead[t] = dead[t - 1] + dying[first + t]
        if curve[first + t] + dead[t] > peak:
            ends.add(nodes[t - 1].get_name())
            dead[t] = 0
    held = tuple(alive + more for alive, more in zip(curve[first:], dead, strict=True))
    most = (peak for _ in held) if complete else accumulate(held, max)
    return Functions(frozenset(ends), held, tuple(most))


def generate(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode], shared: Functions) -> None:
    """Makes Inductor generate the functions in `shared` for the nodes of a graph.

    Inductor still ends a function earlier if it would get too many arguments. Also replaces
    Inductor's estimates of held bytes and of the peak by the planned numbers. Inductor compares the
    two before it holds a dead buffer for reuse.

    Args:
        graph: the graph as Inductor compiles it.
        nodes: the nodes of the graph, in the planned order.
        shared: the division of `nodes` into functions.
    """
    backends = (_cpp(graph, node) for node in nodes)
    for backend in {b for b in backends if b is not None}:
        _end_functions(graph.scheduler, backend, shared.ends)
    _tell_the_room(graph.wrapper_code, shared)


def _end_functions(scheduler: Scheduler, backend: CppScheduling, ends: frozenset[str]) -> None:
    is_full = backend.ready_to_flush

    def ready_to_flush() -> bool:
        node = scheduler.current_node
        return is_full() or (node is not None and node.get_name() in ends)

    backend.ready_to_flush = ready_to_flush  # type: ignore[method-assign]


def _tell_the_room(wrapper: Any, shared: Functions) -> None:
    plan_reuse = wrapper.memory_plan_reuse

    def memory_plan_reuse() -> None:
        if config.allow_buffer_reuse and shared.most:
            full = max(shared.most)
            # Inductor has one limit for all nodes, `full`: `taken` leaves as much room below it as
            # `held` leaves below `most`
            levels = zip(shared.most, shared.held, strict=True)
            taken = [full - (most - held) for most, held in levels]
            wrapper.estimate_peak.overall_peak_memory = full
            wrapper.estimate_peak.segmented_tree = SegmentedTree(taken, operator.add, max, 0)
        plan_reuse()

    wrapper.memory_plan_reuse = memory_plan_reuse


def _cpp(graph: GraphLowering, node: BaseSchedulerNode) -> CppScheduling | None:
    """Returns the object of Inductor that generates C++ for a node; None for nodes not in C++."""
    device = node.get_device()
    backend = None if device is None else graph.scheduler.get_backend(device)
    return backend if isinstance(backend, CppScheduling) else None
