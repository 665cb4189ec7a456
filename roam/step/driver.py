"""A captured graph with its backward: planned at its first forward, when every size is a number.

AOTAutograd hands over the joint graph first, to be cut into forward and backward, then each of
the two to be compiled. A graph with dynamic shapes is planned once for each of its shapes.

    joint graph ── partition ──┬── forward graph ──┐
                               └── backward graph ─┴── first call: capture, plan, lower
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition
from torch._guards import CompileContext, CompileId, TracingContext

from roam.capture import trials
from roam.capture.fx_problem import Captured, capture
from roam.capture.graph_names import graph_name, parameter_inputs, source_names
from roam.capture.scratch_probe import Scratch, probe
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError, UnplannedWarning
from roam.inspect.report import GraphRecord, count_detour, count_graph, record
from roam.lowering.aten.emit import Boxed, Lowered, lower
from roam.lowering.aten.plain import mark_boxed, plain, rewritten
from roam.options import Options
from roam.passes.annotations.inplace import InPlace
from roam.passes.annotations.out_variants import OutVariants
from roam.passes.annotations.real_layouts import RealLayouts
from roam.passes.geometry import renew_recomputed, value
from roam.passes.gradient_release import GradientRelease
from roam.passes.pipeline import Pass, run
from roam.passes.rewrites.common_subexpressions import CommonSubexpressions
from roam.passes.rewrites.cross_entropy_backward import CrossEntropyBackward
from roam.passes.rewrites.drop_clones import DropClones
from roam.passes.rewrites.recompute import Recompute
from roam.planner import Settings, plan
from roam.runtime.blocks import Shelf
from roam.step.foldable_gradients import Tickets, Uses
from roam.step.graph_optimizers import Folds
from roam.step.pending_forwards import note_first_pass
from roam.step.releases import gradient_values, gradients_of, own_saved, releases
from roam.step.running_backward import retained
from roam.step.trace import tell

log = logging.getLogger("roam")

REWRITES = (CommonSubexpressions(), DropClones(), CrossEntropyBackward(), Recompute())
TRIED = trials.Tried()
ANNOTATIONS = (TRIED, OutVariants(trials.writes_into), InPlace(trials.writes_over))
TRUTHS = (TRIED, RealLayouts(trials.layouts))  # before any pass that goes by strides

RETAINED = "a backward with retain_graph=True or create_graph=True keeps what the plan overwrites"
MOVED = "the saved tensors are not where the forward left them (saved tensor hooks)"
HELD = "somebody else holds a saved tensor (saved tensor hooks), which the plan overwrites"

Call = tuple[tuple[int, ...], Folds]  # sizes; what is folded


def compile_graph(
    step: Step, gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> Callable[..., Any]:
    """Lets AOTAutograd take one graph apart, for the step to plan."""
    compiler = aot_autograd(
        fw_compiler=step.compile_forward,
        bw_compiler=step.compile_backward,
        inference_compiler=step.compile_inference,
        partition_fn=step.partition,
        keep_inference_input_mutations=True,
    )
    return compiler(gm, example_inputs)


@dataclass
class Step:
    """A captured graph with its backward, and a plan for each of the shapes it has met."""

    name: str
    options: Options
    parameters: frozenset[int]
    names: tuple[str, ...]
    compile_id: CompileId | None = None  # dynamo's, for its structured trace
    outputs: int | None = None
    own_saved: int | None = None  # an output of the forward that only its backward holds
    forward: fx.GraphModule | None = None
    backward: fx.GraphModule | None = None
    plain_forward: Boxed | None = None
    plain_backward: Boxed | None = None
    plans: dict[tuple[Call, frozenset[int]], Lowered | None] = field(default_factory=dict)
    held: frozenset[int] = frozenset()  # tangents, inputs of the backward, that others held once
    latest: dict[Call, GraphRecord] = field(default_factory=dict)
    gradients: dict[int, int] = field(default_factory=dict)  # input -> output
    gradient_values: dict[int, Any] = field(default_factory=dict)  # by input
    uses: Uses = field(default_factory=Uses)
    lock: threading.Lock = field(default_factory=threading.Lock)
    number: int = field(default_factory=count_graph)
    inference_rewrites: ClassVar[tuple[Pass, ...]] = (DropClones(),)

    @classmethod
    def of(cls, gm: fx.GraphModule, options: Options, example_inputs: Sequence[Any]) -> Self:
        here = CompileContext.current_compile_id()
        names = source_names(gm)
        return cls(
            graph_name(gm), options, parameter_inputs(example_inputs), names, compile_id=here
        )

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **how: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        joint = rewritten(REWRITES, rewritten(TRUTHS, joint))
        self.outputs = num_fwd_outputs
        graphs = default_partition(joint, inputs, num_fwd_outputs=num_fwd_outputs, **how)
        self.backward = graphs[1]  # compiled when it first runs, but planned before
        self.gradients = gradients_of(self.backward.graph)
        self.gradient_values = gradient_values(self.backward.graph, self.gradients)
        return graphs

    def compile_forward(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        self.forward, self.plain_forward = gm, plain(gm)
        self.own_saved = own_saved(gm.graph, self.outputs)
        _allow_retaining()
        return mark_boxed(self.run_forward)

    def compile_backward(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        self.plain_backward = plain(gm)
        return mark_boxed(self.run_backward)

    def compile_inference(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        gm = rewritten(self.inference_rewrites, rewritten(TRUTHS, gm))
        self.forward, self.plain_forward = gm, plain(gm)
        return mark_boxed(self.run_forward)

    def run_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.plain_forward is not None
        tickets = None
        if self.options.optimizer is not None and self.backward is None:
            note_first_pass(args)
        elif self.options.optimizer is not None:
            used = self.uses.of(args, self.gradient_values)
            tickets = Tickets.of(used, args, findable=self.own_saved is not None)
        lowered = self.lowered_for(args, () if tickets is None else tickets.folds)
        results = self.plain_forward(args) if lowered is None else lowered.forward(args)
        if tickets is not None:
            tickets.lowered = lowered
            tickets.leave_on(results, self.own_saved)
        return results

    def lowered_for(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        key = _call(args, folds), self.held
        if key not in self.plans:
            with self.lock:
                if key not in self.plans:
                    self.plans[key] = self.make(args, folds)
        return self.plans[key]

    def run_backward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the plan that ran the forward, unless its memory must not be written over."""
        assert self.plain_backward is not None
        tickets = None if self.options.optimizer is None else Tickets.found_on(args)
        lowered = self.plan_for(args) if tickets is None else tickets.lowered
        objection = None if tickets is None else tickets.objection()
        if lowered is None or lowered.backward is None:
            return self.plain_backward(args)
        folding = tickets if lowered.folds else None
        if not lowered.finds_its_arena(args):
            self.detour(MOVED)
        elif retained():
            self.detour(RETAINED)
        elif not lowered.taken.holds_blocks(args):
            self.detour(HELD)
        elif folding is not None and objection is not None:
            self.detour(objection)
        else:
            self.held |= lowered.taken.copy_held(args)  # the next forward plans with it
            if folding is not None:
                args.append(folding.absorb)  # to the same list: the callee empties it
            return lowered.backward(args)
        return self.plain_backward(args)

    def plan_for(self, args: Sequence[Any]) -> Lowered | None:
        """The plan whose forward left these saved tensors, as far as they tell.

        A plan with folds is found by its tickets or not at all.
        """
        plans = [p for p in reversed([*self.plans.values()]) if p is not None and not p.folds]
        fit = [p for p in plans if p.is_for(args)]
        if len(fit) > 1:
            return next((p for p in fit if p.finds_its_arena(args)), fit[0])
        return next(iter(fit), None)

    def detour(self, reason: str) -> None:
        if count_detour(reason) == 1:
            log.warning("%s: %s; this backward ran unplanned", self.name, reason)

    def make(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        """Captures, plans and lowers; None, said once and counted, where that fails.

        Whatever goes wrong here must not end the user's training.
        """
        try:
            return self.make_or_raise(args, folds)
        except Exception as error:
            reason = str(error) if isinstance(error, UnplannableError) else repr(error)
            self.record(GraphRecord(self.name, reason=reason))
            log.debug("%s could not be planned", self.name, exc_info=True)
            text = f"roam runs {self.name} without a plan: {reason}"
            warnings.warn(text, UnplannedWarning, stacklevel=2)
            return None

    def make_or_raise(self, args: Sequence[Any], folds: Folds) -> Lowered:
        roots = self.graphs(folds)
        numbers = self.numbers(args)
        measured = self.scratch(roots, numbers)
        captured = self.captured(roots, numbers, {n: s.nbytes for n, s in measured.items()})
        hold = self.options.arena == "keep"
        found = plan(captured.problem, Settings(self.options.planning_seconds, hold))
        lowered = lower(captured, found, roots, Shelf() if hold else None)
        guesses = tuple(n.name for n, s in measured.items() if s.estimated)
        graph = GraphRecord(self.name, captured.problem, found, estimated=guesses)
        call = _call(args, folds)
        self.record(graph, self.latest.get(call))
        self.latest[call] = graph
        tell(graph, self.compile_id)
        return lowered

    def graphs(self, folds: Folds) -> list[fx.GraphModule]:
        """The forward, and in training the backward, ready for capture, folds included."""
        assert self.forward is not None
        found = [self.forward]
        if self.backward is not None:
            renew_recomputed(self.forward.graph, self.backward.graph)
            found.append(self.backward)
        if folds:
            given = [value(n) for n in self.placeholders]
            where = releases(folds, given, self.gradients)
            found[-1] = rewritten((GradientRelease(where),), found[-1])
        for gm in found:
            run(ANNOTATIONS, gm)
        return found

    def scratch(self, graphs: Sequence[fx.GraphModule], numbers: Numbers) -> dict[fx.Node, Scratch]:
        """What ops allocate for themselves while they run, measured."""
        return probe([gm.graph for gm in graphs], numbers)

    def numbers(self, args: Sequence[Any]) -> Numbers:
        return Numbers.bind(self.placeholders, args)

    @property
    def placeholders(self) -> list[fx.Node]:
        assert self.forward is not None
        return list(self.forward.graph.find_nodes(op="placeholder"))

    def captured(
        self,
        graphs: Sequence[fx.GraphModule],
        numbers: Numbers,
        measured: Mapping[fx.Node, int] | None = None,
    ) -> Captured:
        """measured: scratch bytes of ops, where they were measured."""
        named = zip(self.placeholders, self.names, strict=False)
        return capture(
            self.name,
            graphs[0].graph,
            graphs[1].graph if len(graphs) > 1 else None,
            numbers,
            self.outputs,
            frozenset(n.name for i, n in enumerate(self.placeholders) if i in self.parameters),
            measured,
            {n.name: name for n, name in named if name},
            self.held,
        )

    def record(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        record(graph, self.number, instead_of)


def _call(args: Sequence[Any], folds: Folds) -> Call:
    return tuple(a for a in args if isinstance(a, int)), folds


def _allow_retaining() -> None:
    """A backward that retains its graph runs unplanned here, so AOTAutograd need not refuse it."""
    context = TracingContext.try_get()
    if context is not None and context.fw_metadata is not None:
        context.fw_metadata.bw_donated_idxs = []
