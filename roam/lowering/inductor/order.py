"""Planned orders of the kernels that Inductor generates.

Inductor hands over the fused nodes of a graph before it generates their code. Its own order by
memory is the program order of the Problem, so the planned one is never worse.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch._inductor
from torch import fx
from torch._guards import CompileContext, TracingContext
from torch._inductor import config, custom_graph_pass
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering, SubgraphLowering
from torch._inductor.memory import reorder_for_peak_memory
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from roam.capture.graph_names import graph_name, parameter_inputs, source_names
from roam.core.errors import UnplannedWarning
from roam.core.problem import Kind
from roam.inspect.report import GraphRecord, count_graph, record
from roam.lowering.aten.plain import mark_boxed, plain
from roam.lowering.inductor.kernels import functions, generate, sharing
from roam.lowering.inductor.notes import LOWERING, Note, compiling, find
from roam.lowering.inductor.problem import Labels, Read, read
from roam.lowering.inductor.saved_code import blocking, keep_to_plan, leave_open
from roam.options import Options
from roam.passes import gradient_release
from roam.planner import Settings, plan
from roam.step.trace import tell

log = logging.getLogger("roam")

# torch 2.11 has no class for it, and has the pass pickled with its settings for the caches' keys
Pass: Any = getattr(custom_graph_pass, "CustomSchedulerPass", object)
Nodes = list[BaseSchedulerNode]
Folds = tuple[tuple[int, tuple[tuple[str, int], ...], int], ...]  # parameter; its state; scratch
ROOT = Path(__file__).parents[2]
FOLDERS = [Path(at) for at, *_ in os.walk(ROOT, followlinks=True)]
# all of roam: a list of what can change a plan would soon lack something
SOURCES = tuple(sorted(str(file) for folder in FOLDERS for file in folder.glob("*.py")))


@dataclass
class Compilation:
    """One graph of dynamo's: its forward is compiled first, its backward when it first runs."""

    name: str
    options: Options
    names: tuple[str, ...] = ()  # what the user calls the inputs, "" where it has no name
    parameters: frozenset[int] = frozenset()  # which of the inputs are
    outputs: tuple[str | None, ...] = ()  # of the graph that is being compiled, by name
    saved: frozenset[int] = frozenset()  # which of them go to the backward
    folds: Folds = ()
    is_backward: bool = False
    is_inference: bool = False
    labels: Labels = field(default_factory=dict)
    forward: Read | None = None
    note: Note | None = None
    number: int = field(default_factory=count_graph)

    @classmethod
    def of(
        cls, gm: fx.GraphModule, options: Options, example_inputs: Sequence[Any], **more: Any
    ) -> Self:
        names = source_names(gm)
        return cls(graph_name(gm), options, names, parameter_inputs(example_inputs), **more)

    @property
    def settings(self) -> dict[str, Any]:
        """Inductor's, while it compiles these graphs."""
        return {
            **mode_options(self.options.mode),
            "_post_fusion_custom_pass": PlannedOrder(self),
            # these would run after ours, which runs the first of them before
            "reorder_for_peak_memory": False,
            "triton.reorder_for_reducing_graph_partitions": False,
        }

    @property
    def may_fold(self) -> bool:
        return self.options.optimizer is not None

    @property
    def depends_on(self) -> str:
        """What a plan depends on beside the graph that is compiled, and our sources."""
        read = self.forward if self.is_backward else None
        forward = None if read is None else (read.problem.fingerprint, sorted(read.named.items()))
        inputs = self.names, sorted(self.parameters), sorted(self.labels.items())
        results = self.outputs, sorted(self.saved), self.folds
        how = self.options.planning_seconds, self.may_fold
        return repr((how, inputs, results, forward))

    def run(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        compiled: Any = compile_fx(  # the settings are part of AOTAutograd's cache key
            gm, example_inputs, self.compile_inner, config_patches=self.settings
        )
        return compiled

    def compile_inner(self, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        self.is_backward = bool(how.get("is_backward"))
        self.is_inference = bool(how.get("is_inference"))
        self.outputs = _outputs(gm)
        self.labels = {} if self.is_backward else self.labelled(gm)
        self.saved = frozenset(range(self.first_saved(gm), len(self.outputs)))
        self.folds = _folds(gm)
        self.note = None
        runs = plain(gm) if self.is_backward else None  # now: the compilation changes the graph
        try:
            with config.patch(self.settings), compiling():
                compiled = self.generate(gm, example_inputs, how)
        except InductorError as error:
            if runs is None:
                raise  # the whole graph may take another way
            self.refused(error)
            return mark_boxed(runs)
        self.take(self.note or find(getattr(compiled, "source_code", None) or ""))
        return compiled

    def generate(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Any:
        return compile_fx_inner(gm, example_inputs, **how)

    def take(self, note: Note | None) -> None:
        """What was planned, now or before the code went into a cache."""
        if not self.is_backward:
            self.forward = None
        if note is None:
            return
        if note.complete:
            graph = note.of(self.name)
            self.record(graph)
            tell(graph, CompileContext.current_compile_id())
        else:
            self.forward = note.as_first_phase()

    def record(self, graph: GraphRecord) -> None:
        """Reports a graph that was just compiled, or could not be."""
        record(graph, self.number)

    def unplanned(self, error: Exception) -> None:
        """Says that Inductor's own order runs, and why."""
        self.record(GraphRecord(self.name, reason=repr(error), lowering=LOWERING))
        log.debug("%s could not be planned", self.name, exc_info=True)
        text = f"roam leaves the order of {self.name} to Inductor: {error!r}"
        warnings.warn(text, UnplannedWarning, stacklevel=2)

    def refused(self, error: InductorError) -> None:
        """Says that a backward runs as it came, since Inductor cannot compile it."""
        self.record(GraphRecord(self.name, reason=repr(error.inner_exception), lowering=LOWERING))
        text = f"Inductor cannot compile the backward of {self.name}, which runs unplanned: {error}"
        warnings.warn(text, UnplannedWarning, stacklevel=2)

    def labelled(self, gm: fx.GraphModule) -> Labels:
        inputs = [n.name for n in gm.graph.find_nodes(op="placeholder")]
        names = (*self.names, *("" for _ in inputs))
        return {
            given: (name or given, Kind.PARAMETER if i in self.parameters else Kind.INPUT)
            for i, (given, name) in enumerate(zip(inputs, names, strict=False))
        }

    def first_saved(self, gm: fx.GraphModule) -> int:
        """Which of a graph's results is the first that goes to the backward."""
        context = TracingContext.try_get()
        known = context.fw_metadata if context is not None else None
        if self.is_backward or self.is_inference or known is None:
            return len(_outputs(gm))
        return known.num_forward

    def key(self, forward: Read) -> str:
        """What a backward's plan calls its forward."""
        return f"{forward.problem.fingerprint}{' folding' * self.may_fold}"

    def order(self, graph: GraphLowering, nodes: Nodes) -> Nodes:
        """The planned order of the fused nodes of one graph, which come in Inductor's order."""
        forward = self.forward if self.is_backward else None
        found = read(graph, nodes, self.name, self.outputs, self.saved, forward, self.labels)
        settled, held = (0, ()) if forward is None else (1, forward.held)
        how = Settings(
            self.options.planning_seconds,
            fixed=settled,
            held=held,
            blocking=blocking(graph),
            sharing=frozenset(found.first + k for k in sharing(graph, nodes)),
        )
        planned = plan(found.problem, how)
        complete = self.is_backward or self.is_inference
        ordered = [nodes[i - found.first] for i in planned.order[found.first :]]
        shared = functions(found.problem, planned, ordered, how.sharing, complete=complete)
        self.note = Note(
            self.name,
            found.problem,
            planned,
            complete,
            found.named,
            found.saved,
            () if complete else shared.most,
            "" if forward is None else self.key(forward),
            found.estimated,
        )
        # first: what a C++ wrapper writes next is no Python
        graph.wrapper_code.header._lines.insert(0, self.note.statement())
        generate(graph, ordered, shared)
        if not complete:
            first = self.note.as_first_phase()
            leave_open(graph, self.key(first), first.problem)
        keep_to_plan(graph, found.at, planned)
        return ordered


def mode_options(mode: str | None) -> dict[str, Any]:
    """Inductor's settings for a mode of `torch.compile`."""
    return {} if mode is None else torch._inductor.list_mode_options(mode)


class PlannedOrder(Pass):  # type: ignore[misc]
    """Orders fused nodes; where that fails, they run in Inductor's own order."""

    def __init__(self, compilation: Compilation) -> None:
        self.compilation = compilation

    def __call__(self, nodes: Nodes) -> Nodes:
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
            self.compilation.unplanned(error)
            return theirs

    def __deepcopy__(self, memo: object) -> Self:
        """Inductor copies its whole configuration now and then; the compilation stays one."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """The caches pickle the configuration for their keys."""
        return bytes, (self.uuid(),)

    def uuid(self) -> Any:
        """What the caches tell compiled code by."""
        return custom_graph_pass.get_hash_for_files(SOURCES) + self.compilation.depends_on.encode()


def _folds(gm: fx.GraphModule) -> Folds:
    found = (
        n.meta[gradient_release.META] for n in gm.graph.nodes if gradient_release.META in n.meta
    )
    return tuple((r.index, r.state, r.scratch) for r in found)


def _outputs(gm: fx.GraphModule) -> tuple[str | None, ...]:
    (returned,) = gm.graph.output_node().args
    return tuple(n.name if isinstance(n, fx.Node) else None for n in returned)  # type: ignore[union-attr]
