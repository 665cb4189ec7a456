"""Which neighbouring nodes become one C++ function.

On the CPU Inductor puts all nodes between two extern kernels into one function, and what dies in
between is freed at its end:

    op4 [ buf4 ]              each for itself: buf4 goes before buf6 is made
    op5    [ buf5 ]           one function: all three are held until op6 is done
    op6       [ buf6 ]

So a function ends where the next node would lift it above the planned peak. Elsewhere the nodes
stay together, which saves calls, and compiles of the C++ compiler; and the planner, which is told
who may share one, brings them together (solvers/gather.py).

Inductor fills the same room below the peak: it keeps freed buffers for later ones of their size. So
it is told how much room there is, on a GPU too, in place of its own estimate, which knows neither
buffers written over others nor scratch space, and lifts the peak.
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
    """ends: the names of the nodes that must be their function's last. held: bytes at every node,
    alive or freed with its function. most: bytes that may be held there."""

    ends: frozenset[str]
    held: tuple[int, ...]
    most: tuple[int, ...]


def sharing(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> frozenset[int]:
    """The numbers of the nodes that become one function where they run one after another."""
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
    """The fewest functions that keep the peak as planned.

    nodes: the last ops of the plan, in its order. sharing: the ops that may share a function.
    complete: no backward is to come. Where one is, room that is left goes to the blocks
    that its plan will make of what is saved. A function that may take another node may take it
    wherever it began: so to fill one after the other is best.
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
    """Has the nodes of a graph, which run in this order, share these functions."""
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
            levels = zip(shared.most, shared.held, strict=True)
            taken = [full - (most - held) for most, held in levels]
            wrapper.estimate_peak.overall_peak_memory = full
            wrapper.estimate_peak.segmented_tree = SegmentedTree(taken, operator.add, max, 0)
        plan_reuse()

    wrapper.memory_plan_reuse = memory_plan_reuse


def _cpp(graph: GraphLowering, node: BaseSchedulerNode) -> CppScheduling | None:
    """What generates the node's C++, if anything does."""
    device = node.get_device()
    backend = None if device is None else graph.scheduler.get_backend(device)
    return backend if isinstance(backend, CppScheduling) else None
