"""Holds the forward and the backward of a captured graph, and reads Problems off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from roam.capture import trials
from roam.capture.fx_problem import Captured, capture
from roam.capture.graph_names import DynamoGraph
from roam.capture.op_costs import Cost
from roam.capture.scratch_probe import Scratch, probe
from roam.capture.step_outputs import gradient_values, gradients_of, releases
from roam.capture.symbolic_sizes import Numbers
from roam.capture.usual_costs import Costs
from roam.core.folds import Folds
from roam.inspect.record import HandedOver
from roam.lowering.aten.tier_link import FileTier
from roam.lowering.protocol import Reports
from roam.options import Options
from roam.passes.annotations.inplace import InPlace
from roam.passes.annotations.out_variants import OutVariants
from roam.passes.fold_rows import FoldRows
from roam.passes.geometry import renew_recomputed, value
from roam.passes.gradient_release import GradientRelease
from roam.passes.pipeline import rewritten, run
from roam.passes.rewrites.saved import Told
from roam.planner import InArena, Settings

Parts = tuple[fx.GraphModule, fx.GraphModule]  # forward and backward
TRIED = trials.Tried()
ANNOTATIONS = (TRIED, OutVariants(trials.writes_into), InPlace(trials.writes_over))


@dataclass
class PartitionedGraph:
    """A captured graph, as its forward and, if it has one, its backward.

    Attributes:
        graph: what dynamo tells of the captured graph: its name, inputs and parameters.
        options: the user's options.
        reports: records plans and failures.
        stands_for: the device that is planned for, if this torch was built without that device;
            else None.
        costs: finds the seconds of ops; None if no cost is wanted, as for a step that will run
            without a budget or a tier.
        states: the tier where the optimizers' states lie between steps; None if in memory.
        own_saved: position, among the forward's outputs, of a tensor saved for the backward that
            shares no memory with the user's tensors; None if there is none.
        gradients: by index of an input of the forward, the index of the output of the backward
            that is its gradient.
        gradient_values: by index of an input of the forward, the fake value of its gradient.
        outputs: number of the forward's outputs that precede the saved tensors; None if the graph
            has no backward, so that all outputs are the user's.
        forward_graph: the forward; None before the graph is compiled.
        backward_graph: the backward; None if there is none.
        held: indices, among the backward's inputs, of the tangents (the gradients of the outputs)
            that code outside of the graph was seen to keep alive. A later plan does not count on
            freeing these tangents.
        told: which saved tensors the rewrites keep smaller and which rewrites failed, for reports.
    """

    graph: DynamoGraph
    options: Options
    reports: Reports
    stands_for: torch.device | None = None
    costs: Costs | None = None
    states: FileTier | None = None
    own_saved: int | None = None
    gradients: dict[int, int] = field(default_factory=dict)
    gradient_values: Mapping[int, Any] = field(default_factory=dict)
    outputs: int | None = None
    forward_graph: fx.GraphModule | None = None
    backward_graph: fx.GraphModule | None = None
    held: frozenset[int] = frozenset()
    told: Told = field(default_factory=Told)

    @property
    def may_fold(self) -> bool:
        return self.options.optimizer is not None

    @property
    def trains(self) -> bool:
        return self.backward_graph is not None

    @property
    def settings(self) -> Settings:
        placement = InArena(self.options.arena == "keep")
        link = None if self.states is None else self.states.link
        return Settings(self.options.planning_seconds, placement, link=link)

    def take_parts(self, graphs: Parts, num_fwd_outputs: int) -> None:
        self.outputs = num_fwd_outputs
        self.forward_graph, self.backward_graph = graphs  # kept, to be planned at the first run
        self.gradients = gradients_of(graphs[1].graph)
        self.gradient_values = gradient_values(graphs[1].graph, self.gradients)

    def read(
        self, roots: Sequence[fx.GraphModule], numbers: Numbers, *, priced: bool = True
    ) -> tuple[Captured, dict[fx.Node, Scratch], dict[fx.Node, Cost]]:
        """Reads the Problem of the graphs, with the scratch space and the costs of their ops.

        Args:
            roots: the forward, and the backward if there is one.
            numbers: the value of every symbolic size.
            priced: whether to find the costs, too.

        Returns:
            The Problem, with the graphs.
            The scratch space of each op, by node.
            The cost of each op, by node; empty if not `priced`, or if `costs` is None.
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

    def graphs(self, folds: Folds, parts: Parts | None = None) -> list[fx.GraphModule]:
        """Returns the graphs to plan: the forward and, if there is one, the backward.

        Adds to the last of these graphs the ops that fold gradients into the optimizer's state, if
        `folds` lists any. Also notes on all nodes how they may write their results (ANNOTATIONS).

        Args:
            folds: the gradients to fold.
            parts: the forward and the backward to use; those of this object if left out.
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
            by_rows = (FoldRows(),) if self.options.split else ()
            found[-1] = rewritten((GradientRelease(where), *by_rows), found[-1])
        for gm in found:
            run(ANNOTATIONS, gm)
        return found

    def scratch(self, graphs: Sequence[fx.GraphModule], numbers: Numbers) -> dict[fx.Node, Scratch]:
        """Returns each op's scratch space, the bytes that it allocates and frees while it runs.

        Returns an empty dict if this torch was built without the device that is planned for.
        """
        return {} if self.stands_for is not None else probe([gm.graph for gm in graphs], numbers)

    def handed_over(self, captured: Captured) -> tuple[HandedOver, ...]:
        """Returns the inputs that other graphs have made, as they are in a Problem of this one."""
        backward = captured.backward
        gradients: Any = () if backward is None else backward.output_node().args[0]
        found: list[HandedOver] = []
        for i, maker in self.graph.makers.items():
            result = gradients[i] if i < len(gradients) else None
            names = [
                captured.problem.buffers[captured.buffer(value(node))].name
                for node in (self.placeholders[i], result)
                if isinstance(node, fx.Node)
            ]
            found.append(HandedOver(names[0], maker, *names[1:]))
        return tuple(found)

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

        Raises:
            UnplannableError: a node cannot be planned; for example, its size depends on data.
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
