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
        for i, line in enumerate(wrapper.lines):
            if isinstance(line, AllocateLine) and is_large(wrapper, line.node):
                name, _, made = wrapper.make_buffer_allocation(line.node).partition(" = ")
                wrapper.lines[i] = f"{name} = {asking(wrapper, made)}"

    wrapper.memory_plan_reuse = memory_plan_reuse


def is_large(wrapper: Any, buffer: Any) -> bool:
    """Whether a buffer gains by huge pages: one in a CPU's memory, whose size is known now."""
    shape: Any = wrapper.static_shape_for_buffer_or_none(buffer)
    if shape is None or buffer.get_device_or_error().type != "cpu":
        return False
    return math.prod(shape) * buffer.get_dtype().itemsize >= LARGE


def asking(wrapper: Any, made: str) -> str:
    """What makes a buffer and asks for huge pages under it. made: what makes it."""
    wrapper.add_import_once(f"from {on_huge_pages.__module__} import {on_huge_pages.__name__}")
    return f"{on_huge_pages.__name__}({made})"
