"""Plans the order of the kernels that Inductor generates.

Inductor passes the fused nodes of a graph to `PlannedOrder` before it generates their code.
`PlannedOrder` first sorts the nodes by Inductor's own pass, `reorder_for_peak_memory`. The sorted
order is the program order of the Problem. A plan never has a higher peak than program order, so
none has a higher peak than Inductor's order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import fx
from torch._guards import TracingContext
from torch._inductor import custom_graph_pass
from torch._inductor.graph import GraphLowering, SubgraphLowering
from torch._inductor.memory import reorder_for_peak_memory
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from roam.capture.graph_names import DynamoGraph
from roam.core.problem import Kind
from roam.lowering.inductor.folds import call_together, may_be_overwritten
from roam.lowering.inductor.graph_folds import ADDED, Added
from roam.lowering.inductor.notes import Note
from roam.lowering.inductor.problem import Labels, Read, read
from roam.lowering.inductor.saved_code import blocking, free_unread, keep_to_plan, leave_open
from roam.lowering.inductor.shared_functions import functions, generate, sharing
from roam.passes import gradient_release
from roam.planner import SavedBlocks, Settings, plan

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs

# base class of scheduler passes; torch 2.11 lacks it, and pickles a pass to compute cache keys
Pass: Any = getattr(custom_graph_pass, "CustomSchedulerPass", object)
Nodes = list[BaseSchedulerNode]
# for each fold: (parameter's index in forward's inputs, (name, bytes) of states, scratch bytes)
FoldsInGraph = tuple[tuple[int, tuple[tuple[str, int], ...], int], ...]
ROOT = Path(__file__).parents[2]
FOLDERS = [Path(at) for at, *_ in os.walk(ROOT, followlinks=True)]
# all source files of roam, for cache keys: a list of those that affect plans would get outdated
SOURCES = tuple(sorted(str(file) for folder in FOLDERS for file in folder.glob("*.py")))


@dataclass(frozen=True)
class How:
    """Settings for the forward and all backwards of one captured graph.

    Attributes:
        graph: the captured graph, with the user's names of its inputs.
        seconds: limits the work of planning, to about what an ordinary machine does in this time.
        may_fold: whether backwards may fold gradients (absorb them into an optimizer's state).
        costs: tells how long kernels take, for reports and for choices within a budget; None if
            that is not wanted. No plan depends on these costs.
    """

    graph: DynamoGraph
    seconds: float
    may_fold: bool
    costs: Costs | None = None

    def key(self, forward: Read) -> str:
        """Returns the key by which the code of a forward finds the plan of its backward.

        forward: the planned forward, in the order of its code.
        """
        return f"{forward.problem.fingerprint}{' folding' * self.may_fold}"


@dataclass(frozen=True)
class OneGraph:
    """Describes the forward or backward that Inductor is compiling, for planning.

    Attributes:
        is_backward: whether the graph is a backward.
        is_inference: whether the graph is a forward that has no backward.
        outputs: the names of the results in the FX graph; None for a result that is no node.
        saved: positions of the results that go to the backward; empty for a backward.
        folds: the gradients that the graph folds into an optimizer's state.
        labels: by name of an input, the user's name of that input and its kind. For a backward,
            only the parameters and states that become inputs because of folds (`graph_folds`).
        forward: the planned forward of a backward. None for a forward, or if a backward's forward
            is unknown.
    """

    is_backward: bool
    is_inference: bool
    outputs: tuple[str | None, ...]
    saved: frozenset[int]
    folds: FoldsInGraph
    labels: Labels
    forward: Read | None

    @staticmethod
    def of(
        gm: fx.GraphModule, graph: DynamoGraph, forward: Read | None, how: Mapping[str, Any]
    ) -> OneGraph:
        """Describes a graph that compile_fx compiles.

        Args:
            gm: the graph.
            graph: the captured graph that `gm` is a part of.
            forward: the planned forward, if there is one.
            how: compile_fx's keyword arguments.
        """
        is_backward, is_inference = bool(how.get("is_backward")), bool(how.get("is_inference"))
        outputs = _outputs(gm)
        first = len(outputs) if is_backward or is_inference else first_saved(gm)
        return OneGraph(
            is_backward,
            is_inference,
            outputs,
            frozenset(range(first, len(outputs))),
            _folds(gm),
            _labels(gm, graph, is_backward=is_backward),
            forward if is_backward else None,
        )

    @property
    def complete(self) -> bool:
        """Whether no backward is compiled after this graph."""
        return self.is_backward or self.is_inference

    @property
    def depends_on(self) -> object:
        """The attributes on which the plan depends, for cache keys: equal in every process."""
        read = self.forward
        forward = None if read is None else (read.problem.fingerprint, sorted(read.named.items()))
        return self.outputs, sorted(self.saved), self.folds, sorted(self.labels.items()), forward


# called with a graph, its Problem (`Read`), its nodes in the planned order, and its `OneGraph`
LookAtNodes = Callable[[GraphLowering, Read, Nodes, OneGraph], None]


def planned_order(
    graph: GraphLowering,
    nodes: Nodes,
    how: How,
    one: OneGraph,
    look: LookAtNodes | None = None,
) -> tuple[Nodes, Note]:
    """Plans one graph, and changes its code generation so that the code follows the plan.

    Args:
        graph: the graph as Inductor compiles it.
        nodes: the fused nodes of the graph, in Inductor's own order.
        how: the settings of the captured graph.
        one: the description of the graph.
        look: called with the graph, its Problem, its nodes in the planned order, and `one`; None to
            call nothing.

    Returns:
        The nodes in the planned order, and the note: the plan as it was put into the code.
    """
    forward = one.forward
    name = how.graph.name
    costs = None
    if how.costs is not None:
        from roam.lowering.inductor.costs import kernel_costs  # not imported if costs are unwanted

        costs = kernel_costs(graph, nodes, how.costs)
    may_be_overwritten(graph)
    found = read(graph, nodes, name, one.outputs, one.saved, forward, one.labels, costs)
    settled, held = (0, ()) if forward is None else (1, forward.held)
    together = frozenset(found.first + k for k in sharing(graph, nodes))
    placement = SavedBlocks(held, blocking(graph), together)
    planned = plan(found.problem, Settings(how.seconds, placement, settled))
    ordered = [nodes[i - found.first] for i in planned.order[found.first :]]
    shared = functions(found.problem, planned, ordered, together, complete=one.complete)
    note = Note(
        name,
        found.problem,
        planned,
        one.complete,
        found.named,
        found.saved,
        () if one.complete else shared.most,
        "" if forward is None else how.key(forward),
        found.estimated,
        found.estimated_costs,
        found.origins,
    )
    # at the top of the header: further down, the header of a C++ wrapper is C++ and not Python
    graph.wrapper_code.header._lines.insert(0, note.statement())
    generate(graph, ordered, shared)
    if not one.complete:
        first = note.as_first_phase()
        leave_open(graph, how.key(first), first.problem)
    keep_to_plan(graph, found.at, planned)
    free_unread(graph, found.unread)
    call_together(graph, ordered)
    if look is not None:
        look(graph, found, ordered, one)
    return ordered, note


@dataclass(eq=False)
class PlannedOrder(Pass):  # type: ignore[misc]
    """A pass of Inductor that orders the fused nodes of a graph as planned.

    If planning fails, the nodes run in Inductor's own order, and `failed` is called, which may
    raise. Graphs inside the graph, of branches and loops, are not planned.

    Attributes:
        how: the settings of the captured graph.
        one: the graph that is compiled now; None while AOTAutograd computes keys for its cache.
        failed: called with the error if planning fails; None if `one` is None.
        look: called with the graph, its Problem, its nodes in the planned order, and `one`; None to
            call nothing.
        note: the plan as it was put into the generated code; None before that, or if planning
            failed.
    """

    how: How
    one: OneGraph | None = None
    failed: Callable[[Exception], None] | None = None
    look: LookAtNodes | None = None
    note: Note | None = field(default=None, init=False)

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
        assert self.one is not None
        assert self.failed is not None
        try:
            ordered, self.note = planned_order(graph, theirs, self.how, self.one, self.look)
        except Exception as error:
            self.failed(error)
            return theirs
        return ordered

    def __deepcopy__(self, memo: object) -> Self:
        """Returns the pass itself, because `note` is read from this object, and not from a copy."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the uuid only, because the caches pickle settings just to compute their keys.

        What is unpickled is these bytes, not a pass.
        """
        return bytes, (self.uuid(),)

    def uuid(self) -> Any:
        """Returns all that a plan depends on, as bytes that become part of the caches' keys."""
        how = self.how
        inputs = how.graph.inputs, sorted(how.graph.parameters)
        one = None if self.one is None else self.one.depends_on
        depends_on = repr((how.seconds, how.may_fold, inputs, one))
        return custom_graph_pass.get_hash_for_files(SOURCES) + depends_on.encode()


def first_saved(gm: fx.GraphModule) -> int:
    """Returns the index of the first saved tensor among the results of a forward.

    Returns the number of results if AOTAutograd tells nothing of them.
    """
    context = TracingContext.try_get()
    known = context.fw_metadata if context is not None else None
    return len(_outputs(gm)) if known is None else known.num_forward


def _labels(gm: fx.GraphModule, graph: DynamoGraph, *, is_backward: bool) -> Labels:
    """Returns, by name of an input, the user's name of that input and its kind.

    For a backward, returns only the parameters and states that folds made its inputs.
    """
    inputs = gm.graph.find_nodes(op="placeholder")
    names = (*graph.inputs, *("" for _ in inputs))
    own: dict[str, tuple[str, Kind]] = {}
    for i, (node, name) in enumerate(zip(inputs, names, strict=False)):
        kind = Kind.PARAMETER if i in graph.parameters else Kind.INPUT
        if not is_backward:
            own[str(node.target)] = name or node.name, kind
        added: Added | None = node.meta.get(ADDED)
        if added is not None:
            parameter = graph.inputs[added.parameter]
            own[str(node.target)] = ".".join(filter(None, (parameter, added.state))), added.kind
    return own


def _folds(gm: fx.GraphModule) -> FoldsInGraph:
    found = (
        n.meta[gradient_release.META] for n in gm.graph.nodes if gradient_release.META in n.meta
    )
    return tuple((r.index, r.state, r.scratch) for r in found)


def _outputs(gm: fx.GraphModule) -> tuple[str | None, ...]:
    (returned,) = gm.graph.output_node().args
    return tuple(n.name if isinstance(n, fx.Node) else None for n in returned)  # type: ignore[union-attr]
