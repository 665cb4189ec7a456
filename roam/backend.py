"""The `torch.compile` entry point: `torch.compile(model, backend="roam")`.

AOTAutograd hands over the joint graph first, to be cut into forward and backward, then each of
the two to be compiled. The step is planned at its first forward, when both are known and every
size is a number; a graph with dynamic shapes is planned once for each of its shapes.

    joint graph ── partition ──┬── forward graph ──┐
                               └── backward graph ─┴── first call: capture, plan, lower
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import currentframe
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import ShortenTraceback
from torch._functorch.partitioners import default_partition
from torch._guards import CompileContext, TracingContext

from roam.capture import Numbers, capture
from roam.core.errors import OptionError, UnplannableError, UnplannedWarning
from roam.inspect.report import GraphRecord, count_detour, record
from roam.lowering.aten import Boxed, Lowered, boxed, lower
from roam.lowering.memory import Shelf
from roam.lowering.probe import probe
from roam.passes.common_subexpressions import CommonSubexpressions
from roam.passes.cross_entropy_backward import CrossEntropyBackward
from roam.passes.drop_clones import DropClones
from roam.passes.geometry import renew_recomputed
from roam.passes.inplace import InPlace
from roam.passes.out_variants import OutVariants
from roam.passes.pipeline import Pass, run
from roam.passes.recompute import Recompute
from roam.planner import Settings, plan

log = logging.getLogger("roam")

REWRITES = (CommonSubexpressions(), DropClones(), CrossEntropyBackward(), Recompute())
ANNOTATIONS = (OutVariants(), InPlace())

RETAINED = "a backward with retain_graph=True or create_graph=True keeps what the plan overwrites"
MOVED = "the saved tensors are not where the forward left them (saved tensor hooks)"


class CompileOptionError(ShortenTraceback, OptionError):
    """An OptionError that dynamo hands to the user as it is, not wrapped in one of its own."""


@dataclass(frozen=True)
class Options:
    """What `torch.compile(..., options={...})` may say.

    arena: "step" gives the arena back at the end of every backward, "keep" holds it for the next
        step, until `roam.release()`. planning_seconds: the deadline for planning a graph.
    """

    arena: str = "step"
    planning_seconds: float = 10.0

    @staticmethod
    def parse(options: dict[str, Any] | None, mode: str | None) -> Options:
        """Raises OptionError for an unknown mode or option, or a value of the wrong type."""
        if mode not in (None, "default"):
            raise OptionError(f"roam has no mode {mode!r}: leave it out or use 'default'")
        if not isinstance(options, (dict, type(None))):
            raise OptionError(f"options is a dict such as {{'arena': 'keep'}}, not {options!r}")
        given = dict(options or {})
        unknown = sorted(set(given) - set(Options.__dataclass_fields__))
        if unknown:
            valid = ", ".join(Options.__dataclass_fields__)
            raise OptionError(f"roam has no option {unknown[0]!r}: the options are {valid}")
        if given.get("arena", "step") not in ("step", "keep"):
            raise OptionError(f"option arena is 'step' or 'keep', not {given['arena']!r}")
        seconds = given.get("planning_seconds", 1.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise OptionError(f"option planning_seconds is a positive number, not {seconds!r}")
        return Options(**given)


def roam(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: dict[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The backend: compiles one graph that dynamo captured. Raises OptionError."""
    try:
        chosen = Options.parse(options, mode)
    except OptionError as error:
        raise CompileOptionError(str(error), first_useful_frame=currentframe()) from None
    step = Step(_name(gm), chosen, _parameters(example_inputs))
    compile_graph = aot_autograd(
        fw_compiler=step.compile_forward,
        bw_compiler=step.compile_backward,
        inference_compiler=step.compile_inference,
        partition_fn=step.partition,
        keep_inference_input_mutations=True,
    )
    return compile_graph(gm, example_inputs)


def _name(gm: fx.GraphModule) -> str:
    """The outermost module, if there is one, and dynamo's number of the graph."""
    stacks = (n.meta.get("nn_module_stack") for n in gm.graph.nodes)
    outer = next((next(iter(s.values()))[1] for s in stacks if s), "graph")
    outer = getattr(outer, "__name__", str(outer).rpartition(".")[2])
    return f"{outer} {CompileContext.current_compile_id()}"


def _parameters(example_inputs: Sequence[Any]) -> frozenset[int]:
    return frozenset(i for i, x in enumerate(example_inputs) if isinstance(x, torch.nn.Parameter))


@dataclass
class Step:
    """A captured graph with its backward, and a plan for each of the shapes it has met."""

    name: str
    options: Options
    parameters: frozenset[int]
    outputs: int | None = None
    forward: fx.GraphModule | None = None
    backward: fx.GraphModule | None = None
    plain_forward: Boxed | None = None
    plain_backward: Boxed | None = None
    plans: dict[tuple[int, ...], Lowered | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **how: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        joint = _rewritten(REWRITES, joint)
        self.outputs = num_fwd_outputs
        graphs = default_partition(joint, inputs, num_fwd_outputs=num_fwd_outputs, **how)
        self.backward = graphs[1]  # compiled when it first runs, but planned before
        return graphs

    def compile_forward(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        self.forward, self.plain_forward = gm, _plain(gm)
        _allow_retaining()
        return _mark_boxed(self.run_forward)

    def compile_backward(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        self.plain_backward = _plain(gm)
        return _mark_boxed(self.run_backward)

    def compile_inference(self, gm: fx.GraphModule, _: Sequence[Any]) -> Boxed:
        gm = _rewritten((DropClones(),), gm)
        self.forward, self.plain_forward = gm, _plain(gm)
        return _mark_boxed(self.run_forward)

    def run_forward(self, args: list[Any]) -> Sequence[Any]:
        key = tuple(a for a in args if isinstance(a, int))
        if key not in self.plans:
            with self.lock:
                if key not in self.plans:
                    self.plans[key] = self.make(args)
        lowered = self.plans[key]
        if lowered is None:
            assert self.plain_forward is not None
            return self.plain_forward(args)
        return lowered.forward(args)

    def run_backward(self, args: list[Any]) -> Sequence[Any]:
        """Runs the plan that ran the forward, unless its memory must not be written over."""
        assert self.plain_backward is not None
        planned = [p for p in list(self.plans.values()) if p is not None and p.is_for(args)]
        found = next((p for p in planned if p.finds_its_arena(args)), None)
        if found is None or found.backward is None:
            if planned:
                self.detour(MOVED)
            return self.plain_backward(args)
        if torch._C._autograd._get_current_graph_task_keep_graph():
            self.detour(RETAINED)
            return self.plain_backward(args)
        return found.backward(args)

    def detour(self, reason: str) -> None:
        if count_detour(reason) == 1:
            log.warning("%s: %s; this backward ran unplanned", self.name, reason)

    def make(self, args: Sequence[Any]) -> Lowered | None:
        """Captures, plans and lowers; None, said once and counted, where that fails.

        Whatever goes wrong here must not end the user's training.
        """
        try:
            return self.make_or_raise(args)
        except Exception as error:
            reason = str(error) if isinstance(error, UnplannableError) else repr(error)
            record(GraphRecord(self.name, reason=reason))
            log.debug("%s could not be planned", self.name, exc_info=True)
            text = f"roam runs {self.name} without a plan: {reason}"
            warnings.warn(text, UnplannedWarning, stacklevel=2)
            return None

    def make_or_raise(self, args: Sequence[Any]) -> Lowered:
        assert self.forward is not None
        placeholders = self.forward.graph.find_nodes(op="placeholder")
        if self.backward is not None:
            renew_recomputed(self.forward.graph, self.backward.graph)
        for gm in (self.forward, self.backward):
            if gm is not None:
                run(ANNOTATIONS, gm)
        forward = self.forward.graph
        backward = None if self.backward is None else self.backward.graph
        numbers = Numbers.bind(placeholders, args)
        captured = capture(
            self.name,
            forward,
            backward,
            numbers,
            self.outputs,
            frozenset(n.name for i, n in enumerate(placeholders) if i in self.parameters),
            probe([g for g in (forward, backward) if g is not None], numbers),
        )
        hold = self.options.arena == "keep"
        found = plan(captured.problem, Settings(self.options.planning_seconds, hold))
        roots = [gm for gm in (self.forward, self.backward) if gm is not None]
        lowered = lower(captured, found, roots, Shelf() if hold else None)
        record(GraphRecord(self.name, captured.problem, found))
        log.info("%s: peak %d bytes, bound %d", self.name, found.peak, found.lower_bound)
        return lowered


def _rewritten(passes: Sequence[Pass], gm: fx.GraphModule) -> fx.GraphModule:
    """The graph after the passes; as it came, should one of them fail."""
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned).meta = dict(gm.graph.output_node().meta)
    trial = fx.GraphModule(gm, graph)
    try:
        run(passes, trial)
    except Exception:
        log.warning("a graph is planned as it came: rewriting it failed", exc_info=True)
        return gm
    return trial


def _plain(gm: fx.GraphModule) -> Boxed:
    """The graph as it came, run in program order with every op allocating for itself."""
    graph = fx.Graph()
    returned = graph.graph_copy(gm.graph, {})
    graph.output(returned)
    return boxed(graph, gm, "roam_plain")


def _mark_boxed(run: Boxed) -> Boxed:
    def call(args: list[Any]) -> Sequence[Any]:
        return run(args)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def _allow_retaining() -> None:
    """A backward that retains its graph runs unplanned here, so AOTAutograd need not refuse it."""
    context = TracingContext.try_get()
    if context is not None and context.fw_metadata is not None:
        context.fw_metadata.bw_donated_idxs = []
