"""The `inductor` lowering: Inductor fuses and generates the kernels, roam decides their order.

    dynamo's graph ── compile_fx ──┬── forward  ── scheduler ── PlannedOrder ── code
                                   └── backward ── scheduler ── PlannedOrder ── code
                                                   fuses         Problem, Plan

Partitioning, fusion, in-place reuse and the caches are Inductor's. Its own order by memory is the
program order of the Problem, so the planned one is never worse.

Private names of Inductor are used here, in `inductor_problem.py` and nowhere else. They were tested
with the versions in TESTED. With another version roam says so once; whatever fails there, Inductor's
own order is run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.custom_graph_pass import CustomSchedulerPass, get_hash_for_files
from torch._inductor.graph import GraphLowering, SubgraphLowering
from torch._inductor.memory import reorder_for_peak_memory
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from roam.core.errors import UnplannedWarning
from roam.core.plan import Plan
from roam.inspect.report import GraphRecord, record
from roam.lowering.inductor_problem import Read, as_first_phase, read
from roam.options import Options
from roam.planner import Settings, plan, replaced_peak

log = logging.getLogger("roam")

TESTED = ("2.13",)
SOURCES = (__file__, str(Path(__file__).with_name("inductor_problem.py")))


def compile_graph(
    name: str, options: Options, gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> Callable[..., Any]:
    """Has Inductor compile one graph that dynamo captured, in planned orders."""
    _warn_of_unknown_version()
    return Compilation(name, options).run(gm, example_inputs)


@dataclass
class Compilation:
    """One graph of dynamo's: its forward is compiled first, its backward when it first runs."""

    name: str
    options: Options
    outputs: tuple[str | None, ...] = ()  # of the graph that is being compiled, by name
    saved: frozenset[int] = frozenset()  # which of them go to the backward
    is_backward: bool = False
    is_inference: bool = False
    forward: Read | None = None

    def run(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        patches = {
            "_post_fusion_custom_pass": PlannedOrder(self),
            "reorder_for_peak_memory": False,  # it would run after ours; ours runs it first
        }
        return compile_fx(gm, example_inputs, self.compile_inner, config_patches=patches)

    def compile_inner(self, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        self.is_backward = bool(how.get("is_backward"))
        self.is_inference = bool(how.get("is_inference"))
        self.outputs, self.saved = _outputs(gm), frozenset()
        context = TracingContext.try_get()
        if not (self.is_backward or self.is_inference) and context and context.fw_metadata:
            self.saved = frozenset(range(context.fw_metadata.num_forward, len(self.outputs)))
        with one_kernel_a_node():
            return compile_fx_inner(gm, example_inputs, **how)

    def order(self, graph: GraphLowering, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        """The planned order of the fused nodes of one graph, which come in Inductor's order."""
        forward = self.forward if self.is_backward else None
        if self.is_backward and forward is None:
            return nodes  # its forward came from a cache, in the order that was planned then
        found = read(graph, nodes, self.name, self.outputs, self.saved, forward)
        settled = 0 if forward is None else 1
        planned = plan(found.problem, Settings(self.options.planning_seconds, settled=settled))
        if planned.live_peak >= replaced_peak(found.problem):
            log.debug("%s: Inductor's own order is as good", self.name)
        if self.is_backward or self.is_inference:
            self.record(found, planned)
        else:
            self.forward = as_first_phase(found, planned.order)
        return [nodes[i - found.first] for i in planned.order[found.first :]]

    def record(self, found: Read, planned: Plan) -> None:
        record(GraphRecord(self.name, found.problem, planned))
        log.info("%s: peak %d bytes, bound %d", self.name, planned.peak, planned.lower_bound)


class PlannedOrder(CustomSchedulerPass):
    """Orders fused nodes; where that fails, they run in Inductor's own order."""

    def __init__(self, compilation: Compilation) -> None:
        self.compilation = compilation

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        graph = V.graph
        theirs = reorder_for_peak_memory(
            nodes,
            graph.scheduler.name_to_buf,
            graph.scheduler.name_to_fused_node,
            OrderedSet(graph.graph_inputs),
            OrderedSet(graph.get_output_names()),
        )
        if isinstance(graph, SubgraphLowering):
            return theirs
        try:
            return self.compilation.order(graph, theirs)
        except Exception as error:
            name = self.compilation.name
            record(GraphRecord(name, reason=repr(error)))
            log.debug("%s could not be planned", name, exc_info=True)
            text = f"roam leaves the order of {name} to Inductor: {error!r}"
            warnings.warn(text, UnplannedWarning, stacklevel=2)
            return theirs

    def uuid(self) -> Any:
        """What the caches tell compiled code by: our sources, and what plans depend on."""
        return get_hash_for_files(SOURCES, str(self.compilation.options.planning_seconds))


@contextmanager
def one_kernel_a_node() -> Iterator[None]:
    """Within, every fused node becomes a C++ kernel of its own.

    Inductor would put neighbours on the CPU into one function, and what dies in between would
    stay until its end: what a node holds would depend on its neighbours. The kernels are the same,
    and a layer's are more often those of another.
    """
    before = CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM
    CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM = 0
    try:
        yield
    finally:
        CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM = before


def _outputs(gm: fx.GraphModule) -> tuple[str | None, ...]:
    (returned,) = gm.graph.output_node().args
    return tuple(n.name if isinstance(n, fx.Node) else None for n in returned)  # type: ignore[union-attr]


_warned = False


def _warn_of_unknown_version() -> None:
    global _warned
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in TESTED and not _warned:
        _warned = True
        known = ", ".join(TESTED)
        text = f"the inductor lowering is tested with torch {known}, not {version}"
        warnings.warn(text, UnplannedWarning, stacklevel=3)
