"""Changes the code that Inductor generates, so that saved tensors can lie in blocks, as planned.

forward     looks up where to put each saved tensor (see `runtime/saved_stack`)
backward    frees each saved tensor after its last use; at the start, if no kernel reads the tensor.
            By itself Inductor might keep the tensor's memory for a later buffer of the same size,
            which would keep the whole block alive. And Inductor would hold a tensor that no kernel
            reads to the end of the backward

A block is one allocation for several tensors. If a result could overwrite one of several buffers
that no later kernel reads, the code overwrites the buffer that the plan chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from torch._inductor import config, ir
from torch._inductor.codegen.wrapper import AllocateLine, FreeIfNotReusedLine, FreeLine
from torch._inductor.graph import GraphLowering

from roam.core import machine
from roam.core.machine import ANY, Blocking
from roam.core.plan import Plan
from roam.core.problem import BufferId, Home, Kind, Problem
from roam.runtime import saved_stack


def is_placeable(graph: GraphLowering) -> bool:
    """Returns whether saved tensors can be placed in blocks.

    That takes one device, static sizes, and a wrapper in Python that runs in every step. So neither
    C++ wrappers nor CUDA graphs place them.
    """
    numbers = (n for n in graph.graph_inputs.values() if isinstance(n, sympy.Expr))
    dynamic = any(n.free_symbols for n in numbers)
    replayed = config.triton.cudagraphs and graph.device_types != {"cpu"}
    return not (dynamic or replayed or graph.cpp_wrapper or len(graph.device_types) > 1)


def blocking(graph: GraphLowering) -> Blocking:
    """Returns what the graph's device asks of blocks: their largest size, and gaps inside them.

    Returns `ANY` (no demands) if the graph has several devices, because such a graph has no blocks.
    """
    device, *others = graph.device_types
    return ANY if others else machine.of(device).blocking


def is_own(buffer: Any) -> bool:
    """Returns whether the generated code makes a buffer by a plain allocation of its own.

    Only such a buffer may lie in a block. Returns False for a buffer in memory for communication
    between ranks. The answer means nothing for results without memory of their own, such as views
    and results written over an input.
    """
    return buffer.should_allocate() and not isinstance(buffer.layout, ir.CommBufferLayout)


def leave_open(graph: GraphLowering, key: str, problem: Problem) -> None:
    """Makes a forward's code look up where to put its saved tensors, each time the code runs.

    Before the backward is compiled, each saved tensor is an allocation of its own.

    Args:
        graph: the forward as Inductor compiles it.
        key: the key by which the plan of a backward refers to the forward.
        problem: the forward, as the first phase of the Problem of its backward.
    """
    wrapper: Any = graph.wrapper_code
    saved = [b.name for b in problem.buffers if b.kind is Kind.SAVED and b.home is Home.ARENA]
    plan_reuse = wrapper.memory_plan_reuse

    def memory_plan_reuse() -> None:
        first = {_first(wrapper, name) for name in saved}
        found = [
            (i, line.node)
            for i, line in enumerate(wrapper.lines)
            if isinstance(line, AllocateLine) and line.node.get_name() in first
        ]
        for k, (i, buffer) in enumerate(found):
            _, _, how = wrapper.make_buffer_allocation(buffer).partition("(")
            wrapper.lines[i] = f"{buffer.get_name()} = saved_at[{k}]({how}"
        if found:
            names = tuple(buffer.get_name() for _, buffer in found)
            device = found[0][1].get_device_or_error().type
            stack = f"__import__('{saved_stack.__name__}', fromlist=['']).stack"
            given = f"{key!r}, {names}, '{device}', empty_strided_{device}, reinterpret_tensor"
            wrapper.header.writeline(f"saved_stack = {stack}({given})")
            wrapper.lines.insert(0, "saved_at = saved_stack.places()")
        plan_reuse()

    wrapper.memory_plan_reuse = memory_plan_reuse


def keep_to_plan(graph: GraphLowering, at: Mapping[str, BufferId], plan: Plan) -> None:
    """Makes the generated code reuse memory as planned, so that blocks are freed as planned.

    A buffer in a block is overwritten only as planned, and freed after its last use, never kept for
    reuse. A result that the plan writes over an input overwrites no other input.

    If a kernel is the last reader of two inputs of equal size, Inductor might overwrite one input,
    and the plan the other. Then the result may lie in a block that the plan has freed by that time,
    and keep the whole block alive, or may lie outside of the block that the plan puts it in.
    Inductor might also overwrite a buffer that the same kernel has just made instead of the input,
    and so allocate that buffer needlessly.

    Args:
        graph: the graph as Inductor compiles it.
        at: by name in the scheduler, the Problem's buffer of each buffer with memory of its own.
        plan: the plan.
    """
    wrapper: Any = graph.wrapper_code
    plan_reuse, can_reuse = wrapper.memory_plan_reuse, wrapper.can_reuse
    placed = {name for name, b in at.items() if b in plan.offsets}

    def can_write_over(given: Any, *by: Any) -> bool:
        made = {at.get(b.get_name()) for node in by for b in node.get_outputs()} - {None}
        planned = {plan.reuse[b] for b in made if b in plan.reuse}
        b = at.get(given.get_name())
        free = not by or b not in plan.offsets
        return (b in planned | made if planned else free) and can_reuse(given, *by)

    def memory_plan_reuse() -> None:
        for i, line in enumerate(wrapper.lines):
            if isinstance(line, FreeIfNotReusedLine):
                name = line.node.get_name()
                if _first(wrapper, name) in placed:
                    wrapper.lines[i] = FreeLine(wrapper, line.node)
        plan_reuse()

    wrapper.can_reuse = can_write_over
    wrapper.memory_plan_reuse = memory_plan_reuse


def free_unread(graph: GraphLowering, unread: Sequence[str]) -> None:
    """Makes a backward's code free some inputs before its first node; does nothing to a forward.

    unread: the names of the inputs, which no node uses.
    """
    inputs: Mapping[str, Any] = graph.graph_inputs
    for name in unread if graph.is_backward else ():
        graph.wrapper_code.codegen_free(inputs[name].data.data)


def _first(wrapper: Any, name: str) -> str:
    """Returns the buffer whose allocation the buffer `name` uses: `name`, or the one it reuses.

    Buffers are given by their names.
    """
    while name in wrapper.reuses:
        name = wrapper.reuses[name]
    return name
