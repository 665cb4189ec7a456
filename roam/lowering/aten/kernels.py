"""Compiles and runs one captured graph with ATen's kernels. Plans it at its first forward.

    joint graph ── rewrites ── partition ──┬── forward graph ──┐
                                           └── backward graph ─┴── first call: capture, plan, emit

Planning waits for the first call, because only then every size is a number. A graph with dynamic
shapes is planned once for each of its shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition
from torch._guards import TracingContext

from roam.capture import trials
from roam.capture.fx_problem import Captured, capture
from roam.capture.graph_names import DynamoGraph
from roam.capture.op_costs import Cost, OpCosts
from roam.capture.scratch_probe import Scratch, probe
from roam.capture.step_outputs import gradient_values, gradients_of, own_saved, releases
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import BudgetError, UnplannableError
from roam.core.folds import Folds
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.record import GraphRecord
from roam.lowering.aten.aot_eager import AotEager
from roam.lowering.aten.budget_graph import BudgetGraph, reordered
from roam.lowering.aten.decompositions import parts
from roam.lowering.aten.emit import lower
from roam.lowering.aten.footprint import Share
from roam.lowering.aten.free_recompute import FreeRecompute
from roam.lowering.aten.kept_budget import KeptBudget, Parts
from roam.lowering.aten.lowered import Lowered
from roam.lowering.aten.plain import mark_boxed, plain
from roam.lowering.aten.shared_budget import SharedBudget
from roam.lowering.budget_error import no_plan
from roam.lowering.protocol import Absorb, Boxed, Driver, Reports
from roam.options import Options
from roam.passes.annotations.inplace import InPlace
from roam.passes.annotations.out_variants import OutVariants
from roam.passes.annotations.real_layouts import RealLayouts
from roam.passes.geometry import renew_recomputed, value
from roam.passes.gradient_release import GradientRelease
from roam.passes.pipeline import Pass, rewritten, run
from roam.passes.rewrites.drop_clones import DropClones
from roam.passes.rewrites.recompute import Recompute
from roam.passes.rewrites.split import Split, SplitComposites
from roam.passes.rewrites.table import rewrites
from roam.planner import InArena, Settings, Step, plan
from roam.runtime.blocks import BlockPool

TRIED = trials.Tried()
ANNOTATIONS = (TRIED, OutVariants(trials.writes_into), InPlace(trials.writes_over))
# passes that correct the strides of fake values; run before any pass that relies on strides
TRUTHS = (TRIED, RealLayouts(trials.layouts))

# reasons why a backward may not run as planned
RETAINED = "a backward with retain_graph=True or create_graph=True keeps what the plan overwrites"
MOVED = "the saved tensors are not where the forward left them (saved tensor hooks)"
HELD = "saved tensor hooks keep a saved tensor, which the plan overwrites"

# key of a plan: (values of the forward's inputs that are whole numbers, folds of the backward)
Call = tuple[tuple[int, ...], Folds]


@dataclass(frozen=True)
class _Read:
    """What was read off the graphs when they were compiled, for their first run.

    Attributes:
        folds: the gradients that were taken to be folded.
        parts: forward and backward without folds; None without a backward.
        roots: the graphs.
        captured: the Problem of them.
        measured: by node, its scratch space.
        costs: by node, its cost.
    """

    folds: Folds
    parts: Parts | None
    roots: list[fx.GraphModule]
    captured: Captured
    measured: dict[fx.Node, Scratch]
    costs: dict[fx.Node, Cost]

    def is_of(self, folds: Folds, numbers: Numbers) -> bool:
        """Returns whether a run has these folds, and no sizes that only a run knows."""
        return self.folds == folds and not numbers.symbols


@dataclass
class AtenKernels:
    """A captured graph with its backward, and the plans that its runs needed.

    A plan is made for each `Call` key: the inputs that are whole numbers, and the gradients that
    the backward folds (absorbs into the optimizer's state).

    Attributes:
        stands_for: the device that is planned for, if this torch was built without that device.
        costs: tells how long ops take; None for a step that will run, whose plan needs no costs.
        gradients: by index of an input of the forward, the index of the output of the backward
            that is its gradient.
        plans: by `Call` key and `held`, the plan; None if planning failed.
        held: indices among the backward's inputs of the tangents that code outside of the graph was
            seen to keep alive. A later plan does not count on freeing these tangents.
        latest: by `Call` key, the record, for reports, of the latest plan for this key.
        kept: keeps the graph within the user's budget; None without one.
        searches: whether to search for what may run again without a budget; not for a graph that
            is captured and not planned.
        free: chooses what runs again without a budget; None if nothing does.
        early: what was read of the graphs to choose that.
        joint: the joint graph of a step that is planned offline, without a budget.
    """

    without_plan = "this backward ran unplanned"

    graph: DynamoGraph
    options: Options
    reports: Reports
    stands_for: torch.device | None = None
    costs: OpCosts | None = None
    own_saved: int | None = None
    gradients: dict[int, int] = field(default_factory=dict)
    gradient_values: Mapping[int, Any] = field(default_factory=dict)
    outputs: int | None = None  # number of the forward's outputs that precede the saved tensors
    forward_graph: fx.GraphModule | None = None
    backward_graph: fx.GraphModule | None = None
    captured_forward: Boxed | None = None  # runs the forward without a plan
    captured_backward: Boxed | None = None
    plans: dict[tuple[Call, frozenset[int]], Lowered | None] = field(default_factory=dict)
    held: frozenset[int] = frozenset()
    latest: dict[Call, GraphRecord] = field(default_factory=dict)
    kept: KeptBudget | None = None
    searches: bool = True
    free: FreeRecompute | None = None
    early: _Read | None = None
    joint: fx.GraphModule | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def may_fold(self) -> bool:
        return self.options.optimizer is not None

    @property
    def trains(self) -> bool:
        return self.backward_graph is not None

    # ---- compiling: AOTAutograd partitions the graph ----

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        if (budget := self.options.budget) is not None:
            self.kept = KeptBudget(self.graph, budget, driver, example_inputs, self.settings)
        elif self.searches and (smallest := self.options.smallest_recomputed) is not None:
            how = driver, example_inputs, self.settings, smallest
            self.free = FreeRecompute(self.graph, *how)

        def forward(gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
            self.take_forward(gm)
            return mark_boxed(driver.forward)

        def backward(gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
            self.captured_backward = plain(gm)
            return mark_boxed(driver.backward)

        def inference(gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
            self.take_forward(self.rewritten_alone(gm))
            return mark_boxed(driver.forward)

        compiler = aot_autograd(
            fw_compiler=forward,
            bw_compiler=backward,
            inference_compiler=inference,
            partition_fn=self.partition,
            keep_inference_input_mutations=True,
        )
        try:
            return compiler(gm, example_inputs)
        finally:
            if self.free is not None:
                self.free.example_inputs = ()  # of a graph without a backward

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **how: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        how = {"num_fwd_outputs": num_fwd_outputs, **how}
        captured, joint = joint, self.rewritten_joint(joint)

        def split(joint: fx.GraphModule) -> Parts:
            return default_partition(joint, inputs, **how)

        def take(joint: fx.GraphModule) -> None:
            given = joint.graph.find_nodes(op="placeholder")
            graphs, kept = split(joint), self.kept
            sized = any(isinstance(value(n), torch.SymInt) for n in given)
            if kept is not None and kept.uncopied is None and sized:
                kept.uncopied = graphs  # the first one is without copies
            self.take_parts(graphs, num_fwd_outputs)
            self.own_saved = own_saved(graphs[0].graph, self.outputs)

        if self.kept is not None:
            joint = self.fitted(joint, self.kept, take)
        elif self.free is not None:

            def read(parts: Parts) -> Captured:
                return self.read(self.graphs((), parts), Numbers(), priced=False)[0]

            other = AotEager(captured, TRUTHS, inputs, how, read)
            joint = self.cheapened(joint, self.free, take, other)
        if self.kept is None and self.costs is not None:
            self.joint = joint
        known = None if self.early is None else self.early.parts
        graphs = known or split(joint)
        self.take_parts(graphs, num_fwd_outputs)
        return graphs

    def take_parts(self, graphs: Parts, num_fwd_outputs: int) -> None:
        self.outputs = num_fwd_outputs
        self.forward_graph, self.backward_graph = graphs  # kept, to be planned at the first run
        self.gradients = gradients_of(graphs[1].graph)
        self.gradient_values = gradient_values(graphs[1].graph, self.gradients)

    def fitted(
        self, joint: fx.GraphModule, kept: KeptBudget, take: Callable[[fx.GraphModule], None]
    ) -> fx.GraphModule:
        """Returns the graph with what has to run again to keep the budget.

        Args:
            joint: a forward and its backward.
            kept: keeps the budget.
            take: partitions a graph and stores its parts, as if they were to be planned.

        Raises:
            BudgetError: the budget cannot be kept, or nothing is known of the graph's memory.
        """

        def trial(joint: fx.GraphModule) -> Captured:
            take(joint)
            return self.read(self.graphs(kept.expected_folds()), Numbers())[0]

        if self.costs is None and self.stands_for is None:
            self.costs = OpCosts(measure=True)
        fitted = kept.fitted(joint, trial, self.costs)
        self.own_saved = None
        return fitted

    def cheapened(
        self,
        joint: fx.GraphModule,
        free: FreeRecompute,
        take: Callable[[fx.GraphModule], None],
        other: AotEager | None = None,
    ) -> fx.GraphModule:
        """Returns the graph with what runs again although there is no budget.

        Args:
            joint: a forward and its backward.
            free: chooses what runs again.
            take: partitions a graph and stores its parts, as if they were to be planned.
            other: what aot_eager would do; None if it cannot run the graph.
        """

        reads: list[_Read] = []

        def trial(joint: fx.GraphModule) -> Captured:
            take(joint)
            folds = free.expected_folds()
            roots, forward, backward = self.graphs(folds), self.forward_graph, self.backward_graph
            parts = None if forward is None or backward is None else (forward, backward)
            reads.append(_Read(folds, parts, roots, *self.read(roots, Numbers(), priced=False)))
            return reads[-1].captured

        chosen, name = free.cheapened(joint, trial, other)
        self.own_saved = None
        self.early = next((r for r in reads if r.captured.problem.fingerprint == name), None)
        return chosen

    def take_forward(self, gm: fx.GraphModule) -> None:
        self.forward_graph = gm
        self.captured_forward = plain(gm)
        if self.trains:
            self.own_saved = own_saved(gm.graph, self.outputs)
            _allow_retaining()

    def rewritten_joint(self, joint: fx.GraphModule) -> fx.GraphModule:
        """Rewrites a graph of a forward and its backward."""
        asked, split = self.options.rewrites, self.options.split
        passes = rewrites("aten", asked, split=split, folds=self.may_fold)
        if self.options.recompute is False:
            passes = tuple(p for p in passes if not isinstance(p, Recompute))
        if not any(isinstance(p, Split) for p in passes):
            return rewritten(passes, rewritten(TRUTHS, joint))
        passes = tuple(SplitComposites(p, parts) if isinstance(p, Split) else p for p in passes)
        # once more in the end, as splitting adds ops
        return rewritten(TRUTHS, rewritten(passes, rewritten(TRUTHS, joint)))

    def rewritten_alone(self, gm: fx.GraphModule) -> fx.GraphModule:
        """Rewrites a graph that has no backward."""
        passes: tuple[Pass, ...] = (*self.options.rewrites, DropClones())
        return rewritten(passes, rewritten(TRUTHS, gm))

    # ---- running: called by the step driver ----

    def plan(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        """Returns the plan for inputs of these sizes and for these folds of gradients.

        Makes the plan at the first call with these sizes and folds. Returns None if planning
        failed; warns only in the call that failed, not in later calls.
        """
        key = _call(args, folds), self.held
        if key not in self.plans:
            with self.lock:
                if key not in self.plans:
                    self.plans[key] = self.make(args, folds)
        return self.plans[key]

    def forward(self, planned: Lowered | None, args: list[Any]) -> Sequence[Any]:
        if planned is None:
            return self.plain_forward(args)
        shared = self.shared
        return planned.forward(args) if shared is None else shared.forward(planned, args)

    @property
    def shared(self) -> SharedBudget | None:
        """What keeps the runs within the budget; None without one."""
        kept = self.kept
        return None if kept is None else SharedBudget(self.graph, kept.budget, self.trains)

    def plain_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.captured_forward is not None
        return self.captured_forward(args)

    def found(self, args: Sequence[Any]) -> Lowered | None:
        """Returns the plan of the forward that saved the tensors in `args`, a backward's inputs.

        Recognizes the plan by the tensors' sizes and addresses. Looks only at plans that fold no
        gradients, because the step driver remembers which plan with folds a forward ran by. Returns
        None if no plan fits.
        """
        plans = [p for p in reversed([*self.plans.values()]) if p is not None and not p.folds]
        fit = [p for p in plans if p.is_for(args)]
        if len(fit) > 1:
            return next((p for p in fit if p.finds_its_arena(args)), fit[0])
        return next(iter(fit), None)

    def folds(self, planned: Lowered) -> bool:
        return planned.folds

    def refusal(self, planned: Lowered, args: list[Any], *, retained: bool) -> str | None:
        if not planned.finds_its_arena(args):
            return MOVED
        if retained:
            return RETAINED
        return None if planned.reused.owns_blocks(args) else HELD

    def backward(self, planned: Lowered, args: list[Any], absorb: Absorb | None) -> Sequence[Any]:
        assert planned.backward is not None
        # adds to `held` the tangents that other code keeps alive; later plans will not reuse them
        self.held |= planned.reused.copy_shared(args)
        if absorb is not None:
            # args may be changed, because `backward` empties it
            args.append(lambda i, gradient: absorb([(i, gradient)]))
        shared = self.shared
        return planned.backward(args) if shared is None else shared.backward(planned, args)

    def plain_backward(self, args: list[Any], reason: str = "") -> Sequence[Any]:
        run, shared = self.captured_backward, self.shared
        assert run is not None
        if shared is None:
            return run(args)
        known = self.found(args)
        plans = [known] if known is not None else [p for p in self.plans.values() if p is not None]
        return shared.plain_backward(plans, args, reason, run)

    # ---- planning ----

    def make(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        """Makes a plan. Warns and returns None if that fails, because training has to go on."""
        try:
            return self.make_or_raise(args, folds)
        except BudgetError:
            raise
        except Exception as error:
            if self.kept is not None:
                raise BudgetError(no_plan(self.graph.name, repr(error))) from error
            reason = str(error) if isinstance(error, UnplannableError) else repr(error)
            text = f"roam runs {self.graph.name} without a plan: {reason}"
            self.reports.unplanned(GraphRecord(self.graph.name, reason=reason), error, text)
            return None

    def make_or_raise(self, args: Sequence[Any], folds: Folds) -> Lowered:
        numbers, early = self.numbers(args), self.early
        self.early = None
        if early is not None and early.is_of(folds, numbers) and not self.held and not self.costs:
            roots, captured = early.roots, early.captured
            measured, costs = early.measured, early.costs
        else:
            roots = self.graphs(folds)
            captured, measured, costs = self.read(roots, numbers)
        share: Share | None = None
        if self.kept is None:
            known = None if self.free is None else self.free.plan_of(captured.problem)
            found = known or plan(captured.problem, self.settings)
        else:

            def problem_of(parts: Parts) -> Problem:
                return self.read(self.graphs(folds, parts), numbers)[0].problem

            found = self.kept.plan_of(captured.problem)
            share = self.kept.share(args, captured, found, self.outputs, problem_of)
        hold = self.options.arena == "keep"
        lowered = lower(captured, found, roots, BlockPool() if hold else None)
        lowered = replace(lowered, share=share)
        guesses = tuple(n.name for n, s in measured.items() if s.estimated)
        record = GraphRecord(
            self.graph.name,
            captured.problem,
            found,
            estimated=guesses,
            estimated_costs=captured.names_of(n for n, c in costs.items() if c.estimated),
            recomputed=None if self.kept is None else self.kept.recomputed,
            step=self.again(captured, found),
        )
        call = _call(args, folds)
        self.reports.planned(record, self.latest.get(call))
        self.latest[call] = record
        return lowered

    def again(self, captured: Captured, found: Plan) -> Step | None:
        """Returns what may run again of a graph that is planned offline, in the planned order."""
        if self.joint is None:
            return None
        graph = BudgetGraph(self.joint, reordered(captured, found.order), self.costs, found.peak)
        return graph.step

    def read(
        self, roots: Sequence[fx.GraphModule], numbers: Numbers, *, priced: bool = True
    ) -> tuple[Captured, dict[fx.Node, Scratch], dict[fx.Node, Cost]]:
        """Returns the Problem of the graphs, and the scratch space and the costs of their ops.

        priced: whether costs are wanted.
        """
        measured = self.scratch(roots, numbers)
        known = self.costs if priced else None
        costs = {} if known is None else known.of([gm.graph for gm in roots], numbers)
        captured = self.captured(
            roots,
            numbers,
            {n: s.nbytes for n, s in measured.items()},
            {n: c.seconds for n, c in costs.items()},
        )
        return captured, measured, costs

    @property
    def settings(self) -> Settings:
        return Settings(self.options.planning_seconds, InArena(self.options.arena == "keep"))

    def unplanned_problem(self, args: Sequence[Any], folds: Folds) -> Captured:
        """Returns the Problem that `plan` would plan, but without scratch space and costs."""
        return self.captured(self.graphs(folds), self.numbers(args), {}, {})

    def graphs(self, folds: Folds, parts: Parts | None = None) -> list[fx.GraphModule]:
        """Returns the graphs to plan: the forward and, if there is one, the backward.

        Adds to the last of these graphs the ops that fold gradients into the optimizer's state, if
        `folds` lists any.

        parts: other graphs than those that run.
        """
        forward, backward = parts or (self.forward_graph, self.backward_graph)
        assert forward is not None
        found = [forward]
        if backward is not None:
            renew_recomputed(forward.graph, backward.graph)
            found.append(backward)
        if folds:
            given = [value(n) for n in self.placeholders]
            where = releases(folds, given, self.gradients)
            found[-1] = rewritten((GradientRelease(where),), found[-1])
        for gm in found:
            run(ANNOTATIONS, gm)
        return found

    def scratch(self, graphs: Sequence[fx.GraphModule], numbers: Numbers) -> dict[fx.Node, Scratch]:
        """Returns each op's scratch space, the bytes that it allocates and frees while it runs.

        Measures nothing if this torch was built without the device that is planned for.
        """
        return {} if self.stands_for is not None else probe([gm.graph for gm in graphs], numbers)

    def numbers(self, args: Sequence[Any]) -> Numbers:
        return Numbers.bind(self.placeholders, args)

    @property
    def placeholders(self) -> list[fx.Node]:
        assert self.forward_graph is not None
        return list(self.forward_graph.graph.find_nodes(op="placeholder"))

    def captured(
        self,
        graphs: Sequence[fx.GraphModule],
        numbers: Numbers,
        measured: Mapping[fx.Node, int],
        costs: Mapping[fx.Node, float],
    ) -> Captured:
        """Reads a Problem off the graphs.

        Args:
            graphs: the forward, and the backward if there is one.
            numbers: the value of every symbolic size.
            measured: by node, the scratch space that was measured, in bytes.
            costs: by node, its cost in seconds.
        """
        names = zip(self.placeholders, self.graph.inputs, strict=False)
        known = self.graph.parameters
        return capture(
            self.graph.name,
            graphs[0].graph,
            graphs[1].graph if len(graphs) > 1 else None,
            numbers,
            outputs=self.outputs,
            parameters=frozenset(n.name for i, n in enumerate(self.placeholders) if i in known),
            measured=measured,
            names={n.name: name for n, name in names if name},
            held=self.held,
            stands_for=self.stands_for,
            costs=costs,
        )


def _call(args: Sequence[Any], folds: Folds) -> Call:
    return tuple(a for a in args if isinstance(a, int)), folds


def _allow_retaining() -> None:
    """Lets users pass retain_graph=True, which AOTAutograd would refuse.

    Such a backward runs without a plan.
    """
    context = TracingContext.try_get()
    if context is not None and context.fw_metadata is not None:
        context.fw_metadata.bw_donated_idxs = []
