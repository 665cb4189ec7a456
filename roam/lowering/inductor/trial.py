"""Finds the peak of a graph for a choice of saved values, by planning it without generating code.

The values are results of ops of the joint graph (forward and backward in one).

dynamo's graph ── copy ── partition ── fuse ── plan     the steps by which the graph is compiled
                             │           │
                          `Joint`    the FX values that Inductor's buffers hold
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import fx
from torch._functorch import partitioners
from torch._inductor.graph import GraphLowering

from roam.capture.fake_copies import without_fakes
from roam.capture.graph_names import DynamoGraph
from roam.core.errors import OfflineError, UnplannableError
from roam.core.folds import Folds
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.inspect.record import GraphRecord
from roam.lowering.inductor.kernels import InductorKernels
from roam.lowering.inductor.offline import OfflineInductorKernels
from roam.lowering.inductor.order import Nodes, OneGraph
from roam.lowering.inductor.problem import Read
from roam.lowering.protocol import Driver
from roam.options import Options
from roam.passes.dependencies import depends_on, needed_for
from roam.passes.pipeline import copied

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs

# attributes of a graph and of its inputs by which dynamo tells the sources of the inputs
SOURCES = ("_param_name_to_source", "_dynamo_source")


@dataclass(frozen=True)
class Joint:
    """A joint graph as it was partitioned.

    Attributes:
        graph: the graph.
        results: how many of its outputs are the forward's.
        saved: the values that the forward saved for the backward.
    """

    graph: fx.Graph
    results: int
    saved: tuple[fx.Node, ...]

    @cached_property
    def late(self) -> set[fx.Node]:
        """The nodes that only the backward can run.

        They depend on a tangent, or on an op that writes to a tensor in the backward. Tangents and
        these ops are among them.
        """
        inputs = self.graph.find_nodes(op="placeholder")
        tangents = {n for n in inputs if str(n.target).startswith("tangents")}
        writes = {n for n in self.graph.nodes if partitioners._must_be_in_backward(n)}
        return depends_on(self.graph, tangents | writes)

    def again(self, saved: Sequence[fx.Node]) -> set[fx.Node]:
        """Returns the nodes that the backward recomputes if the forward saves `saved`."""
        returned: Any = self.graph.output_node().args[0]
        gradients = [n for n in returned[self.results :] if isinstance(n, fx.Node)]
        writes = [n for n in self.late if partitioners._must_be_in_backward(n)]
        kept = set(saved)

        def runs(node: fx.Node) -> bool:
            return node not in kept and node.op == "call_function"

        return needed_for([*gradients, *writes], runs) - self.late


@dataclass(frozen=True, eq=False)
class Tried:
    """The plan of a graph for a choice of saved values.

    Attributes:
        recompute: the value of the option "recompute".
        saved: the names of the values that the forward saves; None to let `recompute` decide.
        problem: the Problem of both phases, of the kernels that Inductor would generate.
        plan: the plan of `problem`.
        joint: the joint graph; None if the graph has no backward.
        values: by buffer of the forward, the names of FX values that it holds. If the buffer is an
            input or result of the forward, these are all such names; else just the name of the
            value that Inductor made the buffer for.
        externs: the ops of the forward that are extern kernels or templates.
    """

    recompute: str | bool | None
    saved: tuple[str, ...] | None
    problem: Problem
    plan: Plan
    joint: Joint | None
    values: Mapping[BufferId, tuple[str, ...]]
    externs: frozenset[OpId]


@dataclass
class _Watch:
    """Keeps what a compilation shows (`kernels.Watch`), for `Tried`.

    Attributes:
        seen: the joint graph; None if the graph has no backward.
        values: by buffer of the forward, the names of FX values that it holds.
        externs: the ops of the forward that are extern kernels or templates.
    """

    seen: Joint | None = None
    values: dict[BufferId, tuple[str, ...]] = field(default_factory=dict)
    externs: frozenset[OpId] = frozenset()

    def joint(self, graph: fx.Graph, results: int, saved: Sequence[fx.Node]) -> None:
        self.seen = Joint(graph, results, tuple(saved))

    def fused(self, graph: GraphLowering, read: Read, nodes: Nodes, one: OneGraph) -> None:
        if one.is_backward:
            return
        made = _made(graph, read)
        named: dict[BufferId, list[str]] = defaultdict(list)
        for name, b in read.named.items():
            named[b].append(name)
        self.values = made | {b: tuple(names) for b, names in named.items()}
        self.externs = frozenset(
            k for k, node in enumerate(nodes) if node.is_extern() or node.is_template()
        )


def _made(graph: GraphLowering, read: Read) -> dict[BufferId, tuple[str, ...]]:
    """Returns, by buffer, the FX value that Inductor made the buffer for, if Inductor knows it.

    Leaves out buffers in which a kernel writes one value over another.
    """
    names: dict[BufferId, list[str | None]] = defaultdict(list)
    for name, b in read.at.items():
        buffer = graph.name_to_buffer.get(name)
        if buffer is not None:
            source = buffer.get_origin_node()
            names[b].append(None if source is None else source.name)
    return {b: (one[0],) for b, one in names.items() if len(one) == 1 and one[0] is not None}


@dataclass
class _Found:
    """Receives the reports of a trial (`Reports`), and keeps the plan as `record`.

    `record` is None until a plan is reported. `unplanned` raises OfflineError.
    """

    record: GraphRecord | None = None

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        self.record = graph

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        raise OfflineError(text) from error


@dataclass(frozen=True)
class Trials:
    """Tries choices of saved values for one captured graph.

    Attributes:
        gm: the graph, which no trial changes.
        inputs: the graph's example inputs.
        graph: what dynamo tells of the graph: its name, inputs and parameters.
        options: the user's options; `of` replaces "budget" and "recompute".
        may_fold: whether the graph's backward may fold gradients.
        driver: is passed to `compile`, but runs nothing.
        folds: returns the gradients that the graph's first backward will fold, given the kernels of
            a trial.
        costs: finds the seconds of kernels.
    """

    gm: fx.GraphModule
    inputs: Sequence[Any]
    graph: DynamoGraph
    options: Options
    may_fold: bool
    driver: Driver
    folds: Callable[[InductorKernels], Folds]
    costs: Costs

    def of(self, recompute: str | bool | None, saved: tuple[str, ...] | None = None) -> Tried:
        """Returns the plan of the graph for one choice.

        Args:
            recompute: the value of the option "recompute".
            saved: the names of the values that the forward saves; None to let `recompute` and
                Inductor decide.

        Raises:
            UnplannableError: the graph has no plan, or Inductor cannot compile its backward.
            InductorError: Inductor cannot compile the forward.
        """
        options = replace(self.options, budget=None, recompute=recompute)
        found, watch = _Found(), _Watch()
        kernels = OfflineInductorKernels(
            self.graph, options, found, self.may_fold, self.costs, saved=saved, watch=watch
        )
        try:
            kernels.compile(_copy(self.gm), self.inputs, self.driver)
            if kernels.backwards is not None:
                folds = self.folds(kernels)
                with without_fakes():
                    kernels.plan((), folds)
        except OfflineError as error:
            raise UnplannableError(str(error)) from error
        record = found.record
        if record is None or record.problem is None or record.plan is None:
            raise UnplannableError("it has no plan")
        found_of = watch.seen, watch.values, watch.externs
        return Tried(recompute, saved, record.problem, record.plan, *found_of)


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of dynamo's graph, with what dynamo noted of the sources of its inputs.

    These notes are attributes (SOURCES) that fx does not copy.
    """
    made = copied(gm)
    made.meta = dict(gm.meta)
    inputs = (m.graph.find_nodes(op="placeholder") for m in (gm, made))
    pairs: list[tuple[object, object]] = [(gm, made), *zip(*inputs, strict=True)]
    for old, new in pairs:
        for name in SOURCES:
            if hasattr(old, name):
                setattr(new, name, getattr(old, name))
    return made
