"""Reads a Problem off Inductor's fused scheduler nodes.

    in the scheduler                      in the Problem
    ------------------------------------  --------------------------------------------------
    graph input                           a buffer of the user's, saved by the forward, or a tangent
    fused node, extern kernel             an op
    buffer with memory of its own         a buffer, made by the first op that touches it
    buffer that lives within one kernel   nothing: the code generation removes it
    view, slice of a concatenation,       another name of a buffer
    mutated buffer
    tuple of results                      nothing: the op creates the tensors in the tuple. Each
                                          of them lives until the last is taken out of the tuple
    input that an output may overwrite    a pair (output, input) in `Op.over`

Inductor frees a buffer after the last node that makes, reads or changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch._inductor import ir
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.utils import contains_collective, contains_wait

from roam.capture.node_facts import block_suffix
from roam.capture.origins import OriginNotes
from roam.capture.scratch_probe import Scratch
from roam.capture.step_outputs import is_loss_gradient
from roam.core import machine
from roam.core.build import FOLD, ProblemBuilder
from roam.core.origins import NO_ORIGINS, Origins
from roam.core.problem import BufferId, Home, Kind, Lane, OpId, Problem
from roam.lowering.inductor.graph_folds import NUMBERS
from roam.lowering.inductor.in_place import WITHOUT_MEMORY, written_over
from roam.lowering.inductor.inner_buffers import is_link, is_removed
from roam.lowering.inductor.origins import (
    block_of,
    folded_in,
    module_of,
    must_run_once,
    release_of,
    sources,
)
from roam.lowering.inductor.saved_code import is_own, is_placeable
from roam.lowering.inductor.scheduler_buffers import root, storage_bytes, tuple_parts, unread_inputs
from roam.lowering.inductor.scratch import scratch

if TYPE_CHECKING:
    from roam.capture.op_costs import Cost

Pairs = tuple[tuple[BufferId, BufferId], ...]  # (result, buffer that it may overwrite)
Labels = Mapping[str, tuple[str, Kind]]  # graph's name of an input -> (user's name, kind)


@dataclass(frozen=True)
class Read:
    """The Problem of a graph, and which ops and buffers stand for the graph's nodes and values.

    Attributes:
        problem: the Problem of the graph; for a backward, that of both phases.
        nodes: the fused nodes, in program order.
        first: index of the op made from the first node; the ops of the other nodes follow it.
        named: by name in the FX graph, the buffer of each input and output.
        saved: the buffers of a forward's outputs that go to the backward only.
        held: for each op of a compiled forward, an upper bound on the bytes that its generated
            code holds while the op runs; empty for other graphs.
        at: by name in the scheduler, the Problem's buffer of each buffer with memory of its own.
        estimated: names of the ops whose scratch space is extrapolated from smaller sizes.
        estimated_costs: names of the ops whose cost is an estimate.
        origins: operators and lines of the user's code that ops were made from, and the dtypes and
            shapes of buffers.
        unread: names of the graph's inputs that no node uses.
    """

    problem: Problem
    nodes: Sequence[BaseSchedulerNode]
    first: int
    named: dict[str, BufferId]
    saved: frozenset[BufferId]
    held: tuple[int, ...] = ()
    at: Mapping[str, BufferId] = field(default_factory=dict)
    estimated: tuple[str, ...] = ()
    estimated_costs: tuple[str, ...] = ()
    origins: Origins = NO_ORIGINS
    unread: tuple[str, ...] = ()


def read(
    graph: GraphLowering,
    nodes: Sequence[BaseSchedulerNode],
    name: str,
    outputs: Sequence[str | None],
    saved: frozenset[int],
    forward: Read | None = None,
    labels: Labels | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Read:
    """Returns the Problem of one graph, or of a backward together with its forward.

    Args:
        graph: the graph as Inductor compiles it.
        nodes: the fused nodes of the graph, in the order in which Inductor would run them.
        name: the name of the Problem.
        outputs: the names of the results in the FX graph; None for a result that is no node.
        saved: positions of the results that go to the backward.
        forward: the planned forward of a backward, if it is known; its ops keep their order.
        labels: by name of an input, the user's name of that input and its kind (`OneGraph.labels`).
        costs: by name of a node, its cost in seconds; nodes that are left out cost nothing.

    Raises:
        UnplannableError: a size depends on data.
    """
    reader = _Reader(graph, forward, scratch(graph, nodes), labels or {}, costs or {})
    unread = unread_inputs(graph, nodes)
    reader.add_inputs(unread)
    first = len(reader.build.ops)
    for node in nodes:
        reader.add_op(node)
    named = reader.inputs | reader.keep(outputs)
    problem = reader.build.problem(name)
    saved_alone = _only_saved(named, outputs, saved)
    return Read(
        problem,
        nodes,
        first,
        named,
        saved_alone,
        at=reader.buffer_of,
        estimated=tuple(reader.estimated),
        estimated_costs=tuple(reader.estimated_costs),
        origins=reader.origins.origins(),
        unread=unread,
    )


def _only_saved(
    named: Mapping[str, BufferId], outputs: Sequence[str | None], saved: frozenset[int]
) -> frozenset[BufferId]:
    """Returns the buffers of results that go to the backward and not to the user as well."""
    found: tuple[set[BufferId], set[BufferId]] = set(), set()
    for i, name in enumerate(outputs):
        if name is not None and name in named:
            found[i in saved].add(named[name])
    return frozenset(found[True] - found[False])


@dataclass
class _Reader:
    """Makes buffers and ops of the inputs and fused nodes of one graph, for `read`.

    Attributes:
        scratch: by name of an extern kernel, its scratch space.
        inputs: by name of an input of the graph, its buffer.
        op_of: by node, the op made from it.
        last_collective: the latest op that communicates with other ranks; such ops stay in order.
        placeable: whether saved tensors may lie in blocks.
        makers: by buffer, the name of the FX node that it was made from.
        fold_names: names of the folds that kernels of the graph have carried out so far.
    """

    graph: GraphLowering
    forward: Read | None
    scratch: dict[str, Scratch]
    labels: Labels
    costs: Mapping[str, Cost]
    build: ProblemBuilder = field(init=False)
    origins: OriginNotes = field(init=False)
    inputs: dict[str, BufferId] = field(default_factory=dict)
    # by name of a buffer in the scheduler that is no view (see `root`): the Problem's buffer
    buffer_of: dict[str, BufferId] = field(default_factory=dict)
    # by name in the scheduler of one tensor in a tuple of results: the names of all tensors in it
    tuple_of: dict[str, list[str]] = field(default_factory=dict)
    op_of: dict[BaseSchedulerNode, int] = field(default_factory=dict)
    makers: dict[BufferId, str] = field(default_factory=dict)
    fold_names: set[str] = field(default_factory=set)
    last_collective: OpId | None = None
    estimated: list[str] = field(default_factory=list)
    estimated_costs: list[str] = field(default_factory=list)
    phase: int = 0
    placeable: bool = False

    def __post_init__(self) -> None:
        begun = None if self.forward is None else self.forward.problem
        align = max(machine.of(d).alignment for d in ("cpu", *self.graph.device_types))
        self.build = ProblemBuilder(begun, align)
        self.origins = OriginNotes(NO_ORIGINS if self.forward is None else self.forward.origins)
        if self.forward is not None:
            self.estimated += self.forward.estimated
            self.estimated_costs += self.forward.estimated_costs
        self.phase = int(self.graph.is_backward)
        self.placeable = is_placeable(self.graph)

    def add_inputs(self, unread: Sequence[str]) -> None:
        """Adds the inputs of the graph. Those of a backward are saved tensors and tangents.

        The input with the numbers of folds (`graph_folds`) is made for one run, and freed after the
        last fold, so it is no buffer of the user's, even in a whole step.

        unread: names of inputs that no node uses. A backward frees them before its first node.
        """
        known = {} if self.forward is None else self.forward.named
        users = {b.name: i for i, b in enumerate(self.build.buffers) if b.home is Home.USER}
        made: list[BufferId] = []
        for name, found in self.graph.graph_inputs.items():
            if not isinstance(found, ir.TensorBox):
                continue  # a number, no tensor
            label, kind = self.labels.get(name, (name, Kind.INPUT))
            if name in known:
                b = known[name]
            elif kind is Kind.PARAMETER and label in users:
                b = users[label]  # an input of the forward; a fold made it one of the backward, too
            elif name != NUMBERS and (
                not self.graph.is_backward or name in self.labels or name.startswith("primals_")
            ):
                b = self.build.add_buffer(label, storage_bytes(self.graph, found), kind, Home.USER)
            else:
                b = self.build.add_buffer(name, storage_bytes(self.graph, found))
                if name.startswith("tangents") and is_loss_gradient(found.get_numel()):
                    self.build.keep(b, Kind.TANGENT)
                made.append(b)
            self.inputs[name] = self.buffer_of[name] = b
        given = "tangents" if self.graph.is_backward else "numbers"  # name of op that makes `made`
        saved = (known[name] for name in unread if name in known)
        reads = [b for b in saved if self.build.buffers[b].home is not Home.USER]
        self.build.begin_phase(self.phase, made or None, given, reads)

    def add_op(self, node: BaseSchedulerNode) -> None:
        buffers = self.build.buffers
        known = len(buffers)
        over = self.add_results(node)
        touched = [root(self.graph, n) for n in sorted(node.used_or_aliased_buffer_names())]
        parts = tuple_parts(self.graph, node)
        self.tuple_of |= dict.fromkeys(parts, parts)
        # a MultiOutput takes one tensor out of a tuple, which holds all its tensors until then
        if isinstance(node.node, ir.MultiOutput):
            touched += [other for name in touched for other in self.tuple_of.get(name, ())]
        for name in (*touched, *parts):
            if name not in self.buffer_of:
                self.add_root(name, node)
        used = dict.fromkeys(self.buffer_of[r] for r in touched if r in self.buffer_of)
        changed = [root(self.graph, m) for made in node.get_outputs() for m in made.get_mutations()]
        changes = dict.fromkeys(self.buffer_of[r] for r in changed if r in self.buffer_of)
        earlier = sorted({self.op_of[p] for p in node.mpi_node.pred_nodes if p in self.op_of})
        communicates = contains_collective(node) or contains_wait(node)
        if communicates and self.last_collective is not None:
            earlier.append(self.last_collective)
        cost = self.costs.get(node.get_name())
        seconds = 0.0 if cost is None else cost.seconds
        release = release_of(node)
        if release is not None:
            self.op_of[node] = self.build.add_fold(
                self.parameter(release.index),
                [*used],
                release.state,
                mutates=[*changes],
                scratch=release.scratch,
                cost=seconds,
                after=earlier,
                where=module_of(node),
                block=block_suffix(block_of(node)),
            )
            self.note_cost(node, cost)
            return
        made = range(known, len(buffers))
        own = self.scratch.get(node.get_name(), Scratch(0))
        named = self.name_of(node, [b for b in used if b < known])
        if own.estimated:
            self.estimated.append(named)
        self.op_of[node] = self.build.add_op(
            named,
            reads=[b for b in used if b < known],
            creates=[b for b in made if buffers[b].home is not Home.USER],
            mutates=[b for b in changes if b < known or buffers[b].home is Home.USER],
            over=over,
            scratch=own.nbytes,
            cost=seconds,
            after=earlier,
            where=module_of(node),
            once=must_run_once(node),
            lane=Lane.COMMUNICATION if communicates else Lane.COMPUTE,
        )
        if communicates:
            self.last_collective = self.op_of[node]
        self.note_cost(node, cost)
        self.origins.note_kernel(self.build.ops[self.op_of[node]].name, sources(node))

    def name_of(self, node: BaseSchedulerNode, reads: Sequence[BufferId]) -> str:
        """Returns a name for the op of a kernel. Marks the gradients that it folds as released.

        The op is named after a fold (`graph_folds`) that the kernel carries out and that no earlier
        kernel has begun. If there is none, it has the kernel's own name.

        reads: the buffers that the kernel reads.
        """
        for folded in folded_in(node):
            for b in reads:
                if self.makers.get(b) == folded.gradient:
                    self.build.change(b, kind=Kind.RELEASED)
        names = [FOLD + self.parameter(folded.index) for folded in folded_in(node)]
        free = next((name for name in names if name not in self.fold_names), None)
        self.fold_names |= set(names)
        return free or self.phase * "backward " + node.get_name() + block_suffix(block_of(node))

    def note_cost(self, node: BaseSchedulerNode, cost: Cost | None) -> None:
        if cost is not None and cost.estimated:
            self.estimated_costs.append(self.build.ops[self.op_of[node]].name)

    def add_results(self, node: BaseSchedulerNode) -> Pairs:
        """Adds the buffers that the parts of a node make, if Inductor generates the node's code.

        Returns pairs (result, buffer that the result may overwrite), for `Op.over`.

        If the result of a part may overwrite a buffer that an earlier part of the same node made,
        the result and that buffer become one buffer of the Problem. So do a result and the buffers
        without memory before it in a chain of in-place updates (links, see `is_link`).
        """
        known = len(self.build.buffers)
        pairs: dict[tuple[BufferId, BufferId], None] = {}
        # by name of a link: the names in its chain so far, and what the chain's end may overwrite
        links: dict[str, tuple[list[str], list[BufferId]]] = {}
        for part in node.get_nodes():
            for made, dying in written_over(self.graph, node, part):
                name = made.get_name()
                chain: list[str] = []
                found = [self.buffer_of[d] for d in dying if d in self.buffer_of]
                if not found:
                    chain, found = next((links[d] for d in dying if d in links), ([], []))
                if is_removed(self.graph, name, node):
                    if found and is_link(node):
                        links[name] = [*chain, name], found
                    continue
                inside = next((b for b in found if b >= known), None)
                if inside is not None:
                    self.buffer_of[name] = inside
                else:
                    self.add_root(name, node)
                    pairs |= {(self.buffer_of[name], b): None for b in found}
                self.buffer_of |= dict.fromkeys(chain, self.buffer_of[name])
        return tuple(pairs)

    def parameter(self, index: int) -> str:
        """Returns the user's name of a parameter: input `index` of the forward or whole step."""
        name = f"primals_{index + 1}"  # AOTAutograd's name of the input
        if not self.graph.is_backward:
            b = self.inputs.get([*self.graph.graph_inputs][index])
        else:
            b = None if self.forward is None else self.forward.named.get(name)
        return name if b is None else self.build.buffers[b].name

    def add_root(self, name: str, node: BaseSchedulerNode) -> None:
        buffer = self.graph.name_to_buffer.get(name)
        if buffer is None:
            constant = self.graph.constants.get(name)
            size = 0 if constant is None else constant.nbytes
            self.buffer_of[name] = self.build.add_buffer(name, size, Kind.INPUT, Home.USER)
        elif not isinstance(buffer.layout, WITHOUT_MEMORY) and not is_removed(
            self.graph, name, node
        ):
            home = Home.ARENA if self.placeable and is_own(buffer) else Home.EXTERNAL
            b = self.build.add_buffer(
                name, storage_bytes(self.graph, buffer), home=home, where=module_of(node)
            )
            self.buffer_of[name] = b
            shape = buffer.maybe_get_size() or ()
            own, maker = self.build.buffers[b].name, buffer.get_origin_node()
            if maker is not None:
                self.makers[b] = maker.name
            self.origins.note_buffer(own, buffer.get_dtype(), shape, maker)

    def keep(self, outputs: Sequence[str | None]) -> dict[str, BufferId]:
        """Marks the graph's results, saved tensors included, as alive when the graph ends.

        Returns the buffer of each result, by the result's name in the FX graph (in `outputs`).
        """
        found: dict[str, BufferId] = {}
        kind = Kind.OUTPUT if self.phase == 0 else Kind.GRADIENT
        for name, fx_name in zip(self.graph.get_output_names(), outputs, strict=True):
            b = self.buffer_of.get(root(self.graph, name))
            if b is None:
                continue
            self.build.keep(b, kind)
            if fx_name is not None:
                found[fx_name] = b
        return found
