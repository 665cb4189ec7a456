"""Huge pages under the large buffers that Inductor's code allocates on the CPU one by one:

    buf0 = on_huge_pages(empty_strided_cpu((1024, 50257), (50257, 1), torch.float32))

See `huge_pages` for what that saves.
"""

from __future__ import annotations

import math
from typing import Any

from torch._inductor.codegen.wrapper import AllocateLine
from torch._inductor.graph import GraphLowering

from roam.lowering.huge_pages import LARGE, on_huge_pages


def ask_for_huge_pages(graph: GraphLowering) -> None:
    """Has Python code ask for them wherever it maps memory, and not where it writes over some."""
    if graph.cpp_wrapper or graph.device_types != {"cpu"}:
        return
    wrapper: Any = graph.wrapper_code
    plan_reuse = wrapper.memory_plan_reuse

    def memory_plan_reuse() -> None:
        plan_reuse()
        lines = [(i, line) for i, line in enumerate(wrapper.lines) if _is_large(line)]
        for i, line in lines:
            name, _, made = wrapper.make_buffer_allocation(line.node).partition(" = ")
            wrapper.lines[i] = f"{name} = {on_huge_pages.__name__}({made})"
        if lines:
            wrapper.header.writeline(
                f"from {on_huge_pages.__module__} import {on_huge_pages.__name__}"
            )

    wrapper.memory_plan_reuse = memory_plan_reuse


def _is_large(line: Any) -> bool:
    """Whether it allocates a large buffer, whose size is known now."""
    if not isinstance(line, AllocateLine):
        return False
    shape: Any = line.wrapper.static_shape_for_buffer_or_none(line.node)
    return shape is not None and math.prod(shape) * line.node.get_dtype().itemsize >= LARGE
