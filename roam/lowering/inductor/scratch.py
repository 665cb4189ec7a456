"""Measures the scratch space of extern kernels: the bytes that they allocate for themselves.

Only kernels on the CPU are measured. `probe` runs the operator of each kernel once, on inputs laid
out as Inductor lays them out, or on several smaller inputs if that would take too much time or
memory. `extern_calls` returns the calls of these operators; the module `costs` uses it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor import ir
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode

from roam.capture.scratch_probe import Scratch, is_measured, probe
from roam.capture.symbolic_sizes import Numbers
from roam.lowering.inductor.origins import origin
from roam.passes import add_mm

Hint = Callable[[Any], int]  # returns the value that a size had when the graph was traced
# operators of roam's own, and the ATen operators measured in their place: they run the same kernel
MEASURED_AS: dict[Any, Any] = {add_mm.IN_PLACE: torch.ops.aten.addmm.default}


def scratch(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> dict[str, Scratch]:
    """Returns the scratch space of the extern kernels among the nodes, by the node's name.

    Leaves out kernels with an input on another device than the CPU, and kernels that `extern_calls`
    leaves out.
    """
    on_cpu = [n for n in nodes if n.is_extern() and _on_cpu(n.node)]
    calls, names = extern_calls(graph, on_cpu)
    return {names[call]: size for call, size in probe([calls], Numbers()).items()}


def extern_calls(
    graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]
) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Returns a graph with the operator calls that extern kernels make.

    Also returns, for each call, the kernel's name in the scheduler. Leaves out kernels whose
    operator is unknown, is the user's own, is pointwise, or must not be called with arbitrary
    values.
    """

    def hint(size: Any) -> int:
        return int(graph.sizevars.optimization_hint(size, fallback=0))

    calls = fx.Graph()
    names: dict[fx.Node, str] = {}
    with FakeTensorMode():
        for node in nodes:
            call = _call(calls, node.node, hint) if node.is_extern() else None
            if call is not None:
                names[call] = node.get_name()
    return calls, names


def _call(calls: fx.Graph, kernel: Any, hint: Hint) -> fx.Node | None:
    """Adds the operator call of an extern kernel to `calls`, on inputs with the kernel's layouts.

    Returns the call; None if its operator is unknown or is not measured (`is_measured`), or if the
    kernel does not take the same tensors as the operator.
    """
    called = None if isinstance(kernel, ir.MultiOutput) else origin(kernel)
    if called is None:
        return None
    target: Any = MEASURED_AS.get(called.target, called.target)
    if not is_measured(target):
        return None
    inputs = _inputs(kernel)
    if len(inputs) != len(list(_tensors(called))) or not all(map(_device, inputs)):
        return None
    given = iter(inputs)

    def stand_in(node: fx.Node) -> Any:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return hint(node.meta["val"].node.expr)
        found = calls.placeholder(node.name)
        found.meta["val"] = _like(next(given), hint)
        return found

    call = calls.call_function(target, *fx.map_arg((called.args, called.kwargs), stand_in))
    call.meta["val"] = fx.node.map_aggregate(called.meta["val"], lambda t: _static(t, hint))
    return call


def _tensors(call: fx.Node) -> Iterator[fx.Node]:
    """Yields the tensor arguments of a call. Yields a tensor twice if it is passed twice."""
    found: list[fx.Node] = []
    fx.map_arg((call.args, call.kwargs), found.append)
    return (n for n in found if isinstance(n.meta.get("val"), torch.Tensor))


def _inputs(kernel: Any) -> list[Any]:
    return [i for i in kernel.inputs if isinstance(i, ir.IRNode)]


def _on_cpu(kernel: Any) -> bool:
    devices = map(_device, _inputs(kernel))
    return all(device is not None and device.type == "cpu" for device in devices)


def _device(buffer: Any) -> torch.device | None:
    return buffer.get_device()


def _like(buffer: Any, hint: Hint) -> torch.Tensor:
    size, stride = map(hint, buffer.get_size()), map(hint, buffer.get_stride())
    dtype, device = buffer.get_dtype(), _device(buffer)
    return torch.empty_strided(tuple(size), tuple(stride), dtype=dtype, device=device)


def _static(found: Any, hint: Hint) -> Any:
    if not isinstance(found, torch.Tensor):
        return found
    sizes: list[list[Any]] = [list(found.shape), list(found.stride())]
    size, stride = (
        [hint(n.node.expr) if isinstance(n, torch.SymInt) else n for n in numbers]
        for numbers in sizes
    )
    return torch.empty_strided(size, stride, dtype=found.dtype, device=found.device)
