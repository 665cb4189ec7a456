"""Compiles and runs one captured graph with ATen's kernels. The first forward plans the graph.

    joint graph ── rewrites ── edits ── partition ──┬── forward graph ──┐
                                                    └── backward graph ─┴── first call: capture,
                                                                            plan, emit

Capture reads the Problem off the two graphs. It waits for the first call, because only then every
size is a number. A graph is planned once for each combination of its sizes and of the gradients
that its backward folds. If a plan of the same Problem was made while edits were chosen
(`edited_graph`), the first call uses that plan.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import default_partition
from torch._guards import TracingContext
from torch.fx._lazy_graph_module import _use_lazy_graph_module

from roam.capture.fx_problem import Captured
from roam.capture.step_outputs import own_saved
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import BudgetError, UnplannableError
from roam.core.folds import Folds
from roam.core.problem import Problem
from roam.inspect.record import GraphRecord
from roam.inspect.shrunk import ShrunkSaved
from roam.lowering.aten.aot_eager import AotEager
from roam.lowering.aten.edited_graph import EditedGraph
from roam.lowering.aten.emit import lower
from roam.lowering.aten.footprint import Share
from roam.lowering.aten.lowered import Lowered
from roam.lowering.aten.partitioned_graph import Parts
from roam.lowering.aten.plain import mark_boxed, plain
from roam.lowering.aten.rewriting import TRUTHS, rewritten_alone, rewritten_joint
from roam.lowering.aten.shared_budget import SharedBudget
from roam.lowering.budget_error import no_plan
from roam.lowering.protocol import Boxed, Driver, Folding
from roam.passes.geometry import has_symbolic_inputs
from roam.passes.pipeline import rewritten
from roam.passes.save_bases import SaveBases
from roam.runtime.blocks import BlockPool

log = logging.getLogger("roam")

# reasons why a backward may not run as planned
RETAINED = "a backward with retain_graph=True or create_graph=True keeps what the plan overwrites"
MOVED = "the saved tensors are not where the forward left them (saved tensor hooks)"
HELD = "saved tensor hooks keep a saved tensor, which the plan overwrites"

# how often one graph may be planned anew because measured steps differ from its plan: if they still
# do after so many plans, one more does not help
REPLANS = 3

# key of a plan: (values of the forward's inputs that are whole numbers, folds of the backward)
Call = tuple[tuple[int, ...], Folds]


@dataclass
class AtenKernels(EditedGraph):
    """A captured graph with its backward, and the plans that its runs needed.

    A plan is made for each `Call` key: the inputs that are whole numbers, and the gradients that
    the backward folds (absorbs into the optimizer's state).

    Attributes:
        captured_forward: runs the forward without a plan.
        captured_backward: runs the backward without a plan.
        plans: by `Call` key and tangents that other code keeps, the plan; None if planning failed.
        latest: by `Call` key, the record, for reports, of the latest plan for this key.
        lock: held while a plan is made.
        replans: how often the graph was compiled anew because measured steps differed from a plan.
    """

    without_plan = "this backward ran unplanned"

    captured_forward: Boxed | None = None
    captured_backward: Boxed | None = None
    plans: dict[tuple[Call, frozenset[int]], Lowered | None] = field(default_factory=dict)
    latest: dict[Call, GraphRecord] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    replans: int = 0

    @property
    def trains(self) -> bool:
        return self.backward_graph is not None

    # ---- compiling: AOTAutograd traces the graph, and calls `partition` ----

    def compile(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], driver: Driver
    ) -> Callable[..., Any]:
        self.prepare_edits(driver, example_inputs)

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
            with _use_lazy_graph_module(True):  # generates code only for graphs that run: few do
                return compiler(gm, example_inputs)
        finally:
            self.forget_inputs()

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **how: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        how = {"num_fwd_outputs": num_fwd_outputs, **how}
        captured, joint = (
            joint,
            rewritten((SaveBases(),), self.rewritten_joint(joint)),
        )

        def split(joint: fx.GraphModule) -> Parts:
            return default_partition(joint, inputs, **how)

        def take(joint: fx.GraphModule) -> None:
            sized = has_symbolic_inputs(joint.graph)
            graphs, kept = split(joint), self.kept
            if kept is not None and kept.uncopied is None and sized:
                kept.uncopied = graphs  # the first partition is made without copies
            self.take_parts(graphs, num_fwd_outputs)
            self.own_saved = own_saved(graphs[0].graph, self.outputs)

        def read(parts: Parts) -> Captured:
            return self.read(self.graphs((), parts), Numbers(), priced=False)[0]

        joint = self.edited(joint, take, AotEager(captured, TRUTHS, inputs, how, read))
        if self.kept is None and self.offload is None and not self.runs:
            self.joint = joint
        known = None if self.early is None else self.early.parts
        graphs = known or split(joint)
        self.take_parts(graphs, num_fwd_outputs)
        return graphs

    def take_forward(self, gm: fx.GraphModule) -> None:
        self.forward_graph = gm
        self.captured_forward = plain(gm)
        if self.trains:
            self.own_saved = own_saved(gm.graph, self.outputs)
            _allow_retaining()

    def rewritten_joint(self, joint: fx.GraphModule) -> fx.GraphModule:
        return rewritten_joint(joint, self.options, self.told, folds=self.may_fold)

    def rewritten_alone(self, gm: fx.GraphModule) -> fx.GraphModule:
        return rewritten_alone(gm, self.options, self.told)

    # ---- running: called by the step driver ----

    def plan(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        """Returns the plan for inputs of these sizes and for these folds of gradients.

        Makes the plan at the first call with these sizes and folds, and once more if a backward has
        found further tangents that other code keeps alive (`held`). Returns None if planning
        failed; warns only in the call that failed, not in later calls.

        Raises:
            BudgetError: there is no plan within the user's budget.
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
        shared, watch = self.shared, self.watch
        with nullcontext() if watch is None else watch.forward():
            return planned.forward(args) if shared is None else shared.forward(planned, args)

    @property
    def shared(self) -> SharedBudget | None:
        """Runs the graph if the budget allows the run, else raises; None without a budget."""
        kept = self.kept
        if kept is None:
            return None
        return SharedBudget(self.graph, kept.budget, self.trains, kept.note)

    def plain_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.captured_forward is not None
        return self.captured_forward(args)

    def found(self, args: Sequence[Any]) -> Lowered | None:
        """Returns the plan of the forward that saved the tensors in `args`, a backward's inputs.

        Looks only at plans that fold no gradients, because the step driver remembers which plan
        with folds a forward ran by. Recognizes the plan by the shapes of the inputs. Of several
        plans for these shapes, returns the latest in whose blocks the tensors lie; if there is
        none, the latest. Returns None if no plan is for these shapes.
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

    def backward(self, planned: Lowered, args: list[Any], run: Folding | None) -> Sequence[Any]:
        assert planned.backward is not None
        # adds to `held` the tangents that other code keeps alive; later plans will not reuse them
        self.held |= planned.reused.copy_shared(args)
        if run is not None:
            args.append(run)  # allowed, because the callee empties `args` anyway
        shared, watch = self.shared, self.watch
        with nullcontext() if watch is None else watch.backward():
            return planned.backward(args) if shared is None else shared.backward(planned, args)

    def plain_backward(self, args: list[Any], reason: str = "") -> Sequence[Any]:
        run, shared = self.captured_backward, self.shared
        assert run is not None
        if shared is None:
            return run(args)
        known = self.found(args)
        plans = [known] if known is not None else [p for p in self.plans.values() if p is not None]
        return shared.plain_backward(plans, args, reason, run)

    @property
    def may_be_replaced(self) -> bool:
        return self.watch is not None or (self.kept is not None and self.kept.may_learn)

    def successor(self) -> AtenKernels | None:
        if self.replans == REPLANS:
            return None
        seen = None if self.watch is None else self.watch.news()
        following = None if self.kept is None else self.kept.news()
        news = seen or following
        if news is None:
            return None
        log.info("%s is planned anew, since its steps showed: %s", self.graph.name, news)
        return AtenKernels(
            self.graph,
            self.options,
            self.reports,
            seen=seen or self.seen,
            following=following or self.following,
            latest=self.latest,
            replans=self.replans + 1,
        )

    # ---- planning ----

    def make(self, args: Sequence[Any], folds: Folds) -> Lowered | None:
        """Makes a plan. Warns and returns None if that fails, because training has to go on.

        Raises:
            BudgetError: the user gave a budget, and the plan exceeds it or could not be made.
            OfflineError: planning failed, and the step is only planned and never runs.
        """
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
        numbers = self.numbers(args)
        if (early := self.early_read(folds, numbers)) is not None:
            roots, captured = early.roots, early.captured
            measured, costs = early.measured, early.costs
        else:
            roots = self.graphs(folds)
            captured, measured, costs = self.read(roots, numbers)
        found = self.plan_of(captured.problem)
        share: Share | None = None
        if self.kept is not None:

            def problem_of(parts: Parts) -> Problem:
                return self.read(self.graphs(folds, parts), numbers)[0].problem

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
            recomputed=self.recomputed,
            moved=self.moved,
            stored=None if self.states is None else self.states.stored(captured.problem, found),
            step=self.again(captured, found),
            shrunk=ShrunkSaved.of(self.told.shrunk, self.told.left_out),
            origins=captured.origins,
            handed=self.handed_over(captured),
        )
        call = _call(args, folds)
        self.reports.planned(record, self.latest.get(call))
        self.latest[call] = record
        return lowered

    def unplanned_problem(self, args: Sequence[Any], folds: Folds) -> Captured:
        """Returns the Problem that `plan` would plan, but without scratch space and costs."""
        return self.captured(self.graphs(folds), self.numbers(args), {}, {})


def _call(args: Sequence[Any], folds: Folds) -> Call:
    return tuple(a for a in args if isinstance(a, int)), folds


def _allow_retaining() -> None:
    """Lets users pass retain_graph=True, which AOTAutograd would refuse for donated saved tensors.

    Tells AOTAutograd that the backward gets no saved tensor as its own (donated). A backward with
    retain_graph=True runs without a plan.
    """
    context = TracingContext.try_get()
    if context is not None and context.fw_metadata is not None:
        context.fw_metadata.bw_donated_idxs = []
