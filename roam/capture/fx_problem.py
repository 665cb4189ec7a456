"""Reads a Problem out of the graphs of a step.

    fx node                         in the Problem
    ------------------------------  -----------------------------------------------
    placeholder, get_attr           a buffer of the user's
    tangents                        what a first op of the backward creates, and nobody writes
                                    over or frees if somebody else holds it
    op with results of its own      an op, and a buffer a result
    view, alias, getitem            nothing: another name for a buffer
    op that changes its argument    an op that mutates
    fold of a gradient              an op that mutates the optimizer's state, and the parameter
    number (sizes)                  nothing: known when the graph is planned

Two tensors are one buffer when their fake values share a storage; the values of the forward's
nodes and of the backward's placeholders are the same objects, so this links the two graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from torch import fx

from roam.capture.node_facts import is_op, keeps_its_turn, looks_at_storage, mutated, where
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError
from roam.core.problem import Buffer, BufferId, Home, Kind, Op, OpId, Problem
from roam.passes import gradient_release
from roam.passes.annotations import inplace, out_variants
from roam.passes.annotations.scratch import scratch
from roam.passes.geometry import storage_key, tensor_inputs, tensors, value

ALIGNMENT = {"cuda": 512}  # what the allocators give; 64 elsewhere


@dataclass
class Captured:
    """A Problem, and where its parts came from.

    nodes: the fx node of every op, None for the one that stands for the tangents. results: for
    every op its buffers, in the order of the node's results. buffer_of: the buffer of every
    storage (by its key). numbers: what the symbols in sizes stand for.
    """

    problem: Problem
    forward: fx.Graph
    backward: fx.Graph | None
    nodes: list[fx.Node | None]
    results: list[tuple[BufferId, ...]]
    buffer_of: dict[int, BufferId]
    numbers: Numbers
    device: torch.device

    def buffer(self, tensor: torch.Tensor) -> BufferId:
        return self.buffer_of[storage_key(tensor)]


def capture(
    name: str,
    forward: fx.Graph,
    backward: fx.Graph | None,
    numbers: Numbers,
    outputs: int | None = None,
    parameters: frozenset[str] = frozenset(),
    measured: Mapping[fx.Node, int] | None = None,
    names: Mapping[str, str] | None = None,
    held: Collection[int] = (),
    stands_for: torch.device | None = None,
) -> Captured:
    """The Problem of a forward graph and, in training, of its backward.

    outputs: how many of the forward's outputs are the user's; the rest is saved. parameters: the
    names of the placeholders that are parameters. measured: scratch bytes of ops, where they
    were measured. names: what the user calls a placeholder. held: the backward's inputs that are
    gradients of outputs and that somebody else holds. stands_for: the device whose alignment is
    planned for, if it is not that of the tensors. Raises UnplannableError naming the op.
    """
    reader = _Reader(numbers, parameters, measured or {}, names or {}, held)
    graphs = [forward] if backward is None else [forward, backward]
    for phase, graph in enumerate(graphs):
        reader.read(graph, phase)
    reader.keep(_outputs(forward)[:outputs], Kind.OUTPUT)
    if backward is not None:
        reader.save(_outputs(forward)[outputs:])
        reader.keep(_outputs(backward), Kind.GRADIENT)
    device = reader.settle_on_device()
    if stands_for is not None:
        align = ALIGNMENT.get(stands_for.type, 64)
        reader.buffers = [replace(b, align=align) for b in reader.buffers]
    return Captured(
        problem=Problem(name, tuple(reader.buffers), tuple(reader.ops)),
        forward=forward,
        backward=backward,
        nodes=reader.nodes,
        results=reader.results,
        buffer_of=reader.buffer_of,
        numbers=numbers,
        device=device,
    )


def _outputs(graph: fx.Graph) -> Sequence[Any]:
    (returned,) = graph.output_node().args
    return returned if isinstance(returned, (tuple, list)) else (returned,)


class _Reader:
    """Walks the graphs node by node, making buffers and ops."""

    def __init__(
        self,
        numbers: Numbers,
        parameters: frozenset[str],
        measured: Mapping[fx.Node, int],
        names: Mapping[str, str],
        held: Collection[int],
    ) -> None:
        self.numbers = numbers
        self.parameters = parameters
        self.measured = measured
        self.names = names
        self.held = held
        self.buffers: list[Buffer] = []
        self.ops: list[Op] = []
        self.nodes: list[fx.Node | None] = []
        self.results: list[tuple[BufferId, ...]] = []
        self.buffer_of: dict[int, BufferId] = {}
        self.device_of: dict[BufferId, torch.device] = {}
        self.last_ordered: OpId | None = None
        self.first: OpId | None = None  # what every op of the phase waits for
        self.buffer_names: set[str] = set()
        self.op_names: set[str] = set()

    def read(self, graph: fx.Graph, phase: int) -> None:
        self.last_ordered = None
        if phase > 0:
            self.add_tangents(graph, phase)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.add_users(node, Kind.PARAMETER if node.name in self.parameters else Kind.INPUT)
            elif node.op == "get_attr":
                self.add_users(node, Kind.INPUT)
            elif gradient_release.META in node.meta:
                self.add_fold(node, phase)
            elif node.op == "call_function" and is_op(node):
                self.add_op(node, phase)
            elif node.op == "call_function" and looks_at_storage(node):
                self.leave_outside([self.buffer_of[storage_key(t)] for _, t in tensor_inputs(node)])
            elif node.op not in ("call_function", "output"):
                raise UnplannableError(f"{node.name}: a {node.op} node")

    def add_tangents(self, graph: fx.Graph, phase: int) -> None:
        """The gradients of the outputs, which autograd makes before the backward begins.

        It fills in zeros for an output that nobody differentiated. They count, as what one first
        op creates. They go as soon as they are used, unless somebody else holds them.
        """
        known = len(self.buffers)
        for i, node in enumerate(graph.find_nodes(op="placeholder")):
            kind = Kind.TANGENT if i in self.held else Kind.TEMPORARY
            for tensor in tensors(node):
                self.add_buffer(node, node.name, tensor, kind, Home.EXTERNAL)
        self.first = len(self.ops)
        made = tuple(range(known, len(self.buffers)))
        self.ops.append(Op(_unique("tangents", self.op_names), creates=made, phase=phase))
        self.nodes.append(None)
        self.results.append(made)

    def add_users(self, node: fx.Node, kind: Kind) -> None:
        for tensor in tensors(node):
            name = self.names.get(node.name, node.name)
            self.add_buffer(node, name, tensor, kind, Home.USER)

    def add_buffer(
        self, node: fx.Node, name: str, tensor: torch.Tensor, kind: Kind, home: Home
    ) -> BufferId:
        if tensor.layout is not torch.strided:
            raise UnplannableError(f"{node.name}: a tensor of layout {tensor.layout}")
        key = storage_key(tensor)
        if key not in self.buffer_of:
            try:
                size = int(self.numbers(tensor.untyped_storage().nbytes()))
            except UnplannableError as error:
                raise UnplannableError(f"{node.name} ({node.target}): {error}") from None
            align = ALIGNMENT.get(tensor.device.type, 64)
            home = Home.EXTERNAL if size == 0 and home is Home.ARENA else home
            self.buffer_of[key] = len(self.buffers)
            self.device_of[len(self.buffers)] = tensor.device
            self.buffers.append(
                Buffer(_unique(name, self.buffer_names), size, kind, home, align, where(node))
            )
        return self.buffer_of[key]

    def add_op(self, node: fx.Node, phase: int) -> None:
        reads = tuple(dict.fromkeys(self.buffer_of[storage_key(t)] for _, t in tensor_inputs(node)))
        mutates = tuple(dict.fromkeys(self.buffer_of[storage_key(t)] for t in mutated(node)))
        home = Home.ARENA if out_variants.META in node.meta else Home.EXTERNAL
        known = len(self.buffers)
        parts = tensors(node)
        names = [node.name] if len(parts) == 1 else [f"{node.name}.{i}" for i in range(len(parts))]
        results = tuple(
            self.add_buffer(node, name, t, Kind.TEMPORARY, home)
            for name, t in zip(names, parts, strict=True)
        )
        creates = tuple(dict.fromkeys(b for b in results if b >= known))
        ordered = keeps_its_turn(node)
        after = (self.last_ordered,) if ordered and self.last_ordered is not None else ()
        if self.first is not None:
            after = tuple(dict.fromkeys((self.first, *after)))
        if ordered:
            self.last_ordered = len(self.ops)
        self.ops.append(
            Op(
                name=_unique(node.name, self.op_names),
                reads=reads,
                creates=creates,
                mutates=mutates,
                over=self.pairs(node, results, creates),
                scratch=self.scratch(node),
                phase=phase,
                after=after,
                where=where(node),
            )
        )
        self.nodes.append(node)
        self.results.append(results)
        if looks_at_storage(node):
            self.leave_outside(reads)

    def add_fold(self, node: fx.Node, phase: int) -> None:
        """The gradient dies here; what the fold changes was there before the step."""
        release: gradient_release.Release = node.meta[gradient_release.META]
        parameter = self.buffer_of[storage_key(release.parameter)]
        name = self.buffers[parameter].name
        changed = [self.add_state(f"{name}.{what}", size) for what, size in release.state]
        if release.writes_parameter:
            changed.append(parameter)
        gradients = tuple(self.buffer_of[storage_key(t)] for _, t in tensor_inputs(node))
        for b in gradients:
            if self.buffers[b].kind is Kind.TEMPORARY:
                self.buffers[b] = _changed(self.buffers[b], Kind.RELEASED, self.buffers[b].home)
        self.ops.append(
            Op(
                name=_unique(f"fold_{name}", self.op_names),
                reads=gradients,
                mutates=tuple(changed),
                scratch=release.scratch,
                phase=phase,
                after=() if self.first is None else (self.first,),
                where=self.buffers[parameter].where,
            )
        )
        self.nodes.append(node)
        self.results.append(())

    def add_state(self, name: str, size: int) -> BufferId:
        """A tensor of the optimizer's, which is no node's."""
        name = _unique(name, self.buffer_names)
        self.buffers.append(Buffer(name, size, Kind.STATE, Home.USER))
        return len(self.buffers) - 1

    def leave_outside(self, buffers: Sequence[BufferId]) -> None:
        for b in buffers:
            if self.buffers[b].home is Home.ARENA:
                self.buffers[b] = _changed(self.buffers[b], self.buffers[b].kind, Home.EXTERNAL)

    def scratch(self, node: fx.Node) -> int:
        found = self.measured.get(node)
        return int(self.numbers(scratch(node))) if found is None else found

    def pairs(
        self, node: fx.Node, results: Sequence[BufferId], creates: Sequence[BufferId]
    ) -> tuple[tuple[BufferId, BufferId], ...]:
        over = [self.buffer_of[storage_key(value(n))] for n in node.meta.get(inplace.META, ())]
        return tuple((results[0], b) for b in dict.fromkeys(over) if results[0] in creates)

    def keep(self, returned: Sequence[Any], kind: Kind) -> None:
        """What is returned is the user's from then on."""
        for b in self.returned_buffers(returned):
            buffer = self.buffers[b]
            if buffer.home is not Home.USER and not buffer.kept:
                self.buffers[b] = _changed(buffer, kind, Home.EXTERNAL)

    def save(self, returned: Sequence[Any]) -> None:
        for b in self.returned_buffers(returned):
            buffer = self.buffers[b]
            if buffer.home is not Home.USER and not buffer.kept:
                self.buffers[b] = _changed(buffer, Kind.SAVED, buffer.home)

    def returned_buffers(self, returned: Sequence[Any]) -> Iterator[BufferId]:
        for node in returned:
            if isinstance(node, fx.Node):
                yield from (self.buffer_of[storage_key(t)] for t in tensors(node))

    def settle_on_device(self) -> torch.device:
        """The arena lies where most of what it may hold does; the rest allocates for itself."""
        held: dict[torch.device, int] = {}
        for b, buffer in enumerate(self.buffers):
            if buffer.home is Home.ARENA:
                held[self.device_of[b]] = held.get(self.device_of[b], 0) + buffer.size
        device = max(held, key=lambda d: held[d]) if held else torch.device("cpu")
        for b, buffer in enumerate(self.buffers):
            if buffer.home is Home.ARENA and self.device_of[b] != device:
                self.buffers[b] = _changed(buffer, buffer.kind, Home.EXTERNAL)
        return device


def _unique(name: str, taken: set[str]) -> str:
    """A name of its own for what the backward computes again."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _changed(buffer: Buffer, kind: Kind, home: Home) -> Buffer:
    return Buffer(buffer.name, buffer.size, kind, home, buffer.align, buffer.where)
