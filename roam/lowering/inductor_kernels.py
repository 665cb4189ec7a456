"""Which neighbouring nodes become one C++ function.

On the CPU Inductor puts all nodes between two extern kernels into one function, and what dies in
between is freed at its end:

    op4 [ buf4 ]              each for itself: buf4 goes before buf6 is made
    op5    [ buf5 ]           one function: all three are held until op6 is done
    op6       [ buf6 ]

So a function ends where the next node would lift it above the planned peak. Elsewhere the nodes
stay together, which saves calls, and compiles of the C++ compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

from roam.core.lifetime import live_curve, slots
from roam.core.plan import Plan
from roam.core.problem import Problem


def last_of_kernels(
    problem: Problem, plan: Plan, nodes: Sequence[BaseSchedulerNode]
) -> frozenset[str]:
    """The names of the nodes that must be their function's last, for the peak to be as planned.

    nodes: the last ops of the plan, in its order. Functions are as few as can be: one that may
    take another node may take it wherever it began.
    """
    curve = live_curve(problem, plan.order, plan.reuse)
    dying = [0] * (len(curve) + 1)
    for slot in slots(problem, plan.order, plan.reuse):
        dying[slot.upper] += slot.size
    limit = max(curve, default=0)
    first = len(curve) - len(nodes)
    ends: set[str] = set()
    held = 0  # bytes that are dead, and freed with the function that is being filled
    for t in range(1, len(nodes)):
        before, node = nodes[t - 1], nodes[t]
        held += dying[first + t]
        if _is_alone(before) or _is_alone(node):
            held = 0
        elif curve[first + t] + held > limit:
            ends.add(before.get_name())
            held = 0
    return frozenset(ends)


def end_kernels(
    scheduler: Scheduler, nodes: Sequence[BaseSchedulerNode], ends: frozenset[str]
) -> None:
    """Has the C++ functions of one graph end after some of its nodes, given by name."""
    devices = {node.get_device() for node in nodes} - {None}
    for backend in map(scheduler.get_backend, devices):
        if isinstance(backend, CppScheduling):
            _end_kernels(scheduler, backend, ends)


def _end_kernels(scheduler: Scheduler, backend: CppScheduling, ends: frozenset[str]) -> None:
    is_full = backend.ready_to_flush

    def ready_to_flush() -> bool:
        node = scheduler.current_node
        return is_full() or (node is not None and node.get_name() in ends)

    backend.ready_to_flush = ready_to_flush  # type: ignore[method-assign]


def _is_alone(node: BaseSchedulerNode) -> bool:
    """Whether Inductor ends the function before this node, and after it."""
    return node.is_extern() or node.is_template()
