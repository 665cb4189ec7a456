"""Folds of gradients as ops of Inductor's backward.

    mm ── buf7 ── roam::fold([primals_3], buf7, 3) ── del buf7

The op says that it changes what the graph sees of the parameter, so that Inductor runs it after
every reader; who absorbs the gradient is told by the ticket of the forward that ran. All folds
stand at the end of the FX graph, where they part no pattern of Inductor's; where they run, the
planner decides. Those that it puts side by side are one call of the optimizer:

    fold_later([primals_3], buf7, 3)       kept
    fold_now([primals_5], buf9, 5)         both absorbed

A backward is compiled when it first runs, once for each set of parameters whose gradients it folds,
and for each kind of fold.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch import config as functorch_config
from torch._guards import CompileContext, TracingContext, compile_context, tracing
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode

from roam.inspect.report import count_detour
from roam.lowering.aten.plain import copied, mark_boxed
from roam.lowering.inductor.order import Compilation, Nodes
from roam.lowering.inductor.problem import release_of
from roam.passes.geometry import storage_key, value
from roam.passes.gradient_release import META, GradientRelease
from roam.step.foldable_gradients import Tickets, Uses
from roam.step.graph_optimizers import Folds
from roam.step.pending_forwards import note_first_pass
from roam.step.releases import gradient_values, gradients_of, own_saved, releases
from roam.step.running_backward import retained

log = logging.getLogger("roam")

Gradients = list[tuple[int, Tensor]]  # with the input that each is the gradient of

RETAINED = "a backward with retain_graph=True or create_graph=True needs its gradients again"

_library = torch.library.Library("roam", "FRAGMENT")
_library.define(
    "fold(Tensor(a!)[] parameter, Tensor gradient, int index) -> ()",
    tags=(torch.Tag.flexible_layout,),
)
FOLD = torch.ops.roam.fold.default
_running = threading.local()


def fold_later(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    """The next op is a fold too, and takes this one with it."""
    _running.waiting.append((index, gradient))


def fold_now(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    gradients, _running.waiting = [*_running.waiting, (index, gradient)], []
    _running.absorb(gradients)


_library.impl("fold", fold_now, "CompositeExplicitAutograd")
_library.impl("fold", lambda *_: None, "Meta")  # when graphs are traced nothing is folded


@contextmanager
def absorbing(absorb: Callable[[Gradients], None]) -> Iterator[None]:
    """Within, the folds that this thread runs hand their gradients to `absorb`."""
    before = getattr(_running, "absorb", None), getattr(_running, "waiting", None)
    _running.absorb, _running.waiting = absorb, []
    try:
        yield
    finally:
        _running.absorb, _running.waiting = before


def call_together(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> None:
    """Has Python code call `fold_now` in place of the op, once for folds that follow each other.

    One that allocates for itself is called alone: it was planned with the others' gradients gone.
    """
    folds = [release_of(node) for node in nodes]
    if graph.cpp_wrapper or not any(folds):
        return
    graph.wrapper_code.header.writeline(f"from {__name__} import fold_later, fold_now")
    for node, (fold, following) in zip(nodes, pairwise([*folds, None]), strict=True):
        if fold is not None:
            together = following is not None and not fold.scratch and not following.scratch
            name = fold_later.__name__ if together else fold_now.__name__
            node.node.set_python_kernel_name(name)  # type: ignore[union-attr]


@dataclass
class FoldingCompilation(Compilation):
    """A graph of dynamo's whose gradients end in an optimizer's state where they may."""

    given: tuple[Any, ...] = ()  # the fake values of the forward's inputs
    backward: Backward | None = None

    @property
    def settings(self) -> dict[str, Any]:
        # a replayed CUDA graph would call no optimizer
        return super().settings | {"triton.cudagraphs": False}

    def run(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        # What AOTAutograd caches knows nothing of tickets. The backward is compiled when it first
        # runs, and looked at before: what has no gradient needs no state.
        with functorch_config.patch(
            enable_autograd_cache=False, force_non_lazy_backward_lowering=True
        ):
            return super().run(gm, example_inputs)

    def order(self, graph: GraphLowering, nodes: Nodes) -> Nodes:
        ordered = super().order(graph, nodes)
        call_together(graph, ordered)
        return ordered

    def compile_inner(self, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        if how.get("is_backward"):
            self.backward = Backward(self, gm, tuple(example_inputs), how)
            return mark_boxed(self.backward)
        if how.get("is_inference"):
            return _noted(super().compile_inner(gm, example_inputs, **how))
        self.given = tuple(n.meta.get("val") for n in gm.graph.find_nodes(op="placeholder"))
        mine = own_saved(gm.graph, self.first_saved(gm))
        compiled = super().compile_inner(gm, example_inputs, **how)
        uses = Uses()

        def run_forward(args: list[Any]) -> Any:
            gradients = {} if self.backward is None else self.backward.gradient_values
            used = uses.of(args, gradients)
            tickets = Tickets.of(used, args, findable=mine is not None)
            results = compiled(args)
            if tickets is not None:
                tickets.leave_on(results, mine)
            return results

        return mark_boxed(run_forward)


@dataclass
class Backward:
    """A backward that folds what its ticket says, if it may."""

    compilation: FoldingCompilation
    gm: fx.GraphModule
    inputs: tuple[Any, ...]
    how: dict[str, Any]
    tracing: TracingContext | None = field(default_factory=TracingContext.try_get)
    compiling: CompileContext | None = field(default_factory=CompileContext.try_get)
    compiled: dict[Folds, Callable[..., Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def gradients(self) -> dict[int, int]:
        return gradients_of(self.gm.graph)

    @cached_property
    def gradient_values(self) -> dict[int, Any]:
        return gradient_values(self.gm.graph, self.gradients)

    def __call__(self, args: list[Any]) -> Any:
        tickets = Tickets.found_on(args)
        objection = None if tickets is None else tickets.objection()
        if tickets is None or not tickets.folds:
            return self.compiled_for(())(args)
        if retained():
            self.detour(RETAINED)
        elif objection is not None:
            self.detour(objection)
        else:
            with absorbing(tickets.absorb_all):
                return self.compiled_for(tickets.folds)(args)
        return self.compiled_for(())(args)

    def compiled_for(self, folds: Folds) -> Callable[..., Any]:
        with self.lock:
            if folds not in self.compiled:
                self.compiled[folds] = self.compile(folds)
        return self.compiled[folds]

    def compile(self, folds: Folds) -> Callable[..., Any]:
        gm = copied(self.gm)  # Inductor changes the graphs that it compiles
        if folds:
            GradientRelease(releases(folds, self.compilation.given, self.gradients))(gm)
            _lower_folds(gm)
        with ExitStack() as stack:
            stack.enter_context(tracing(self.tracing))
            if self.compiling is not None:
                stack.enter_context(compile_context(self.compiling))
            return Compilation.compile_inner(self.compilation, gm, self.inputs, **self.how)

    def detour(self, reason: str) -> None:
        if count_detour(reason) == 1:
            log.warning("%s: %s; this backward folded nothing", self.compilation.name, reason)


def _noted(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A forward without gradients, which a checkpoint may run again with them."""

    def run_forward(args: list[Any]) -> Any:
        note_first_pass(args)
        return compiled(args)

    return mark_boxed(run_forward)


def _lower_folds(gm: fx.GraphModule) -> None:
    """Has Inductor's op carry out the folds, at the end of the graph."""
    graph = gm.graph
    inputs: dict[int, list[fx.Node]] = {}  # by their storage
    for node in graph.find_nodes(op="placeholder"):
        if isinstance(value(node), Tensor):
            inputs.setdefault(storage_key(value(node)), []).append(node)
    for node in [n for n in graph.nodes if META in n.meta]:
        release = node.meta[META]
        shown = inputs.get(storage_key(release.parameter), [])
        seen = list(shown) if release.writes_parameter else []
        with graph.inserting_before(graph.output_node()):
            fold = graph.call_function(FOLD, (seen, node.args[2], release.index))
        fold.meta = dict(node.meta)
        graph.erase_node(node)
    gm.recompile()
