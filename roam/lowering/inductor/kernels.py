"""Compiles and runs one captured graph with Inductor's kernels.

    compile_fx ──┬── forward    compiled at once, in a planned order
                 └── backward   not compiled at once, but once for each set of gradients that it
                                folds (absorbs into an optimizer's state), when it first runs with
                                this set; its order is planned with the forward's order fixed

If no optimizer may fold gradients, there is one backward, and the step driver has nothing to
decide. Then the backward is compiled when compile_fx asks for it, Inductor's callables run without
the step driver, and AOTAutograd's cache is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import torch._inductor
from torch import fx
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import BoxedBool

from roam.capture.graph_names import DynamoGraph
from roam.capture.step_outputs import gradients_of, own_saved
from roam.core.folds import Folds
from roam.inspect.record import GraphRecord, HandedOver
from roam.inspect.shrunk import ShrunkSaved
from roam.lowering.aten.plain import mark_boxed, plain
from roam.lowering.inductor import add_mm  # noqa: F401  # adds its op to Inductor's tables
from roam.lowering.inductor.block_order import blocks_in_turn
from roam.lowering.inductor.folding_graph import FoldingGraph
from roam.lowering.inductor.folds import absorbing
from roam.lowering.inductor.graph_folds import without_python
from roam.lowering.inductor.notes import LOWERING, Note, compiling, find
from roam.lowering.inductor.order import How, Nodes, OneGraph, PlannedOrder, first_saved
from roam.lowering.inductor.partition import partition
from roam.lowering.inductor.problem import Read
from roam.lowering.inductor.rewriting import joint_pass
from roam.lowering.protocol import Driver, Folding, Reports
from roam.options import Options
from roam.passes.rewrites.saved import ShrinkSaved, Told
from roam.passes.rewrites.table import rewrites

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs

RETAINED = "a backward with retain_graph=True or create_graph=True needs its gradients again"


class Watch(Protocol):
    """Gets the graphs of a compilation: the joint graph, and the fused nodes of its two parts.

    The joint graph is forward and backward in one. Fused nodes are Inductor's: each is a kernel.
    """

    def joint(self, graph: fx.Graph, results: int, saved: Sequence[fx.Node]) -> None:
        """Gets a joint graph, how many of its outputs are the forward's, and the saved values."""
        ...

    def fused(self, graph: GraphLowering, read: Read, nodes: Nodes, one: OneGraph) -> None:
        """Gets a forward or a backward, its Problem, and its fused nodes in the planned order.

        `one` describes the graph: whether it is a backward, what it saves and folds, and so on.
        """
        ...


@dataclass
class InductorKernels:
    """Compiles and runs a captured graph: a forward, and the backward if there is one.

    Attributes:
        graph: what dynamo tells of the captured graph: its name, inputs and parameters.
        may_fold: whether backwards may fold gradients (absorb them into an optimizer's state).
        costs: tells how long kernels take, for reports and for choices within a budget; None for a
            step that will run.
        own_saved: index of a result of the forward that only the backward gets; None without one.
        forward_read: the planned forward, the first phase of the plan of each backward; None if the
            forward is not planned.
        forward_code: the compiled forward; None if the step driver does not run the graph.
        given: the fake values of the forward's inputs; empty if the driver does not run the graph.
        backwards: the versions of the backward; None if there is no backward, or no driver runs it.
        saved: names of the values that the forward saves, if a byte budget decided that; else None.
        watch: gets the joint graph, and the fused nodes of each graph compiled; None to skip this.
        told: which saved tensors the rewrites keep smaller and which rewrites failed, for reports.
    """

    without_plan = "this backward folded nothing"

    graph: DynamoGraph
    options: Options
    reports: Reports
    may_fold: bool
    costs: Costs | None = None
    own_saved: int | None = None
    forward_read: Read | None = None
    forward_code: Callable[..., Any] | None = None
    given: tuple[Any, ...] = ()
    backwards: FoldingGraph | None = None
    saved: tuple[str, ...] | None = None
    watch: Watch | None = None
    told: Told = field(default_factory=Told)

    @property
    def is_driven(self) -> bool:
        """Whether the step driver has to run the graph, because an optimizer may fold gradients."""
        return self.may_fold

    @property
    def trains(self) -> bool:
        return self.backwards is not None

    @property
    def gradient_values(self) -> Mapping[int, Any]:
        return {} if self.backwards is None else self.backwards.gradient_values

    @property
    def how(self) -> How:
        return How(self.graph, self.options.planning_seconds, self.may_fold, self.costs)

    # ---- compiling: `compile` calls compile_fx, which calls `compile_inner` for each graph ----

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        # enable_autograd_cache: code from AOTAutograd's cache would bypass the step driver
        # force_non_lazy_backward_lowering: the backward's graph has to exist before the first run,
        # because it shows which parameters get gradients
        driven = {"enable_autograd_cache": False, "force_non_lazy_backward_lowering": True}
        with functorch_config.patch(driven if self.is_driven else {}):
            # config_patches are part of cache keys, so caches return no code made for other options
            compiled: Any = compile_fx(
                gm,
                example_inputs,
                partial(self.compile_inner, driver),
                config_patches=self.settings(PlannedOrder(self.how)),
            )
        return compiled

    def settings(self, order: PlannedOrder) -> dict[str, Any]:
        """Returns settings for Inductor: of the user's mode, and roam's passes with `order`."""
        asked = rewrites(
            LOWERING,
            self.options.rewrites,
            split=self.options.split,
            folds=self.may_fold,
            recomputes=self.options.recomputes is not None,
            shrink=ShrinkSaved(
                recompute=self.options.exact_recompute(LOWERING),
                told=self.told,
                decompositions=select_decomp_table,
            ),
        )
        return {
            **mode_options(self.options.mode),
            **joint_pass(asked, self.told.failed),
            **partition(
                self.options.recomputes,
                splits=self.options.split is not False or bool(self.options.rewrites),
                saved=self.saved,
                look=None if self.watch is None else self.watch.joint,
            ),
            "_post_fusion_custom_pass": order,
            **blocks_in_turn(late=self.saved is not None),
            # off: reorderings by Inductor that run after `order`, and would undo the planned order
            "reorder_for_peak_memory": False,
            "triton.reorder_for_reducing_graph_partitions": False,
        }

    def compile_inner(
        self, driver: Driver, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any
    ) -> Any:
        """Compiles the forward or the backward. compile_fx calls this once for each of them.

        Returns the callable of the compiled graph. If the step driver runs the graph, returns one
        that calls the driver. Then a backward is only kept, and compiled when it first runs.
        """
        if not self.is_driven:
            return self.compile_one(gm, example_inputs, how)
        if how.get("is_backward"):
            self.backwards = self.folding_graph(gm, example_inputs, how, gradients_of(gm.graph))
            return mark_boxed(driver.backward)
        self.take_inputs(gm)
        if not how.get("is_inference"):
            self.own_saved = own_saved(gm.graph, first_saved(gm))
        self.forward_code = self.compile_one(gm, example_inputs, how)
        return mark_boxed(driver.forward)

    def take_inputs(self, gm: fx.GraphModule) -> None:
        """Keeps the fake values of the inputs of a forward, or of a whole step."""
        self.given = tuple(n.meta.get("val") for n in gm.graph.find_nodes(op="placeholder"))

    def folding_graph(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        how: dict[str, Any],
        gradients: Mapping[int, int],
    ) -> FoldingGraph:
        """Returns a graph that makes gradients, to be compiled when it is known which it folds.

        gradients: by an input's index in `self.given`, its gradient's index among `gm`'s outputs.
        """
        inputs, splits = tuple(example_inputs), bool(self.options.split)
        return FoldingGraph(self.compile_one, self.given, gm, inputs, how, splits, dict(gradients))

    def compile_one(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Any:
        """Compiles a forward, a backward or a whole step in a planned order; returns its callable.

        Also reports the plan. If Inductor cannot compile a backward, calls `refused`, which warns
        or raises, and returns a callable that runs ATen's own operators without a plan.

        Raises:
            InductorError: Inductor cannot compile a forward or a whole step.
        """
        one = OneGraph.of(gm, self.graph, self.forward_read, how)
        runs = plain(gm) if one.is_backward else None  # made before compiling, which changes `gm`
        look = None if self.watch is None else self.watch.fused
        order = PlannedOrder(self.how, one, self.unplanned, look)
        settings = self.settings(order)
        if one.folds:  # a replayed CUDA graph would call no optimizer
            settings["triton.cudagraphs"] = False
            how = how | {"cudagraphs": BoxedBool(False)}
        try:
            with config.patch(settings), compiling():
                compiled = self.generate(gm, example_inputs, how)
        except InductorError as error:
            if runs is None:
                raise  # the next lowering may compile the graph
            self.refused(error)
            return mark_boxed(runs)
        self.take(order.note or find(getattr(compiled, "source_code", None) or ""), one)
        return compiled

    def generate(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Any:
        return compile_fx_inner(gm, example_inputs, **how)

    def take(self, note: Note | None, one: OneGraph) -> None:
        """Reports a complete plan. Keeps the plan of a forward whose backward is yet to be planned.

        Args:
            note: the plan, made now or found in cached code; None if planning failed.
            one: the graph that was compiled.
        """
        if not one.is_backward:
            self.forward_read = None
        if note is not None and note.complete:
            self.reports.planned(self.record(note, one))
        elif note is not None:
            self.forward_read = note.as_first_phase()

    def record(self, note: Note, one: OneGraph) -> GraphRecord:
        """Returns the record of a complete plan, for reports. `one` is the graph compiled last."""
        gradients = dict(enumerate(one.outputs)) if one.is_backward else {}
        handed = [
            HandedOver(f"primals_{i + 1}", maker, note.buffer_name(gradients.get(i)))
            for i, maker in self.graph.makers.items()
        ]
        return replace(
            note.of(self.graph.name),
            shrunk=ShrunkSaved.of(self.told.shrunk, self.told.left_out),
            handed=tuple(handed),
        )

    def unplanned(self, error: Exception) -> None:
        name = self.graph.name
        graph = GraphRecord(name, reason=repr(error), lowering=LOWERING)
        text = f"roam leaves the order of {name} to Inductor: {error!r}"
        self.reports.unplanned(graph, error, text)

    def refused(self, error: InductorError) -> None:
        name = self.graph.name
        graph = GraphRecord(name, reason=repr(error.inner_exception), lowering=LOWERING)
        text = f"Inductor cannot compile the backward of {name}, which runs unplanned: {error}"
        self.reports.unplanned(graph, error, text)

    # ---- running: called by the step driver ----

    def plan(self, args: Sequence[Any], folds: Folds) -> Folds:
        """Returns `folds`: a plan is identified by the gradients that its backward folds."""
        return folds

    def forward(self, planned: Folds, args: list[Any]) -> Sequence[Any]:
        assert self.forward_code is not None
        found: Sequence[Any] = self.forward_code(args)
        return found

    def found(self, args: Sequence[Any]) -> Folds:
        return ()

    def folds(self, planned: Folds) -> bool:
        return bool(planned)

    def refusal(self, planned: Folds, args: list[Any], *, retained: bool) -> str | None:
        return RETAINED if planned and retained else None

    def backward(self, planned: Folds, args: list[Any], run: Folding | None) -> Sequence[Any]:
        assert self.backwards is not None
        if run is None:
            return self.backwards.compiled_for(planned)(args)
        return self.run_folding(self.backwards, planned, args, run)

    def run_folding(
        self, graph: FoldingGraph, planned: Folds, args: list[Any], run: Folding
    ) -> Sequence[Any]:
        """Runs a graph that folds the gradients in `planned`, and returns its results.

        Its own kernels fold if Inductor runs them without Python and `graph_folds` can express all
        folds. Otherwise the graph calls the optimizers, through `run`.
        """
        formulas = run.formulas() if planned and self.without_python else None
        in_graph = None if formulas is None else graph.compiled_with(planned, formulas)
        if formulas is not None and in_graph is not None:
            results = in_graph(args, formulas)
            run.count_folds()
            return results
        code = graph.compiled_for(planned)
        with absorbing(run):
            return code(args)

    @cached_property
    def without_python(self) -> bool:
        """Whether Inductor runs the kernels without Python, so that folds should be kernels."""
        return without_python(mode_options(self.options.mode))

    @property
    def may_be_replaced(self) -> bool:
        return False  # only plans with transfers are replaced, if their times prove to be wrong

    def successor(self) -> None:
        return None

    def plain_backward(self, args: list[Any], reason: str = "") -> Sequence[Any]:
        return self.backward((), args, None)


def mode_options(mode: str | None) -> dict[str, Any]:
    """Returns Inductor's settings for a mode of `torch.compile`; none if `mode` is None."""
    return {} if mode is None else torch._inductor.list_mode_options(mode)
