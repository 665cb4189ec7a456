"""Makes the buffers and the ops of a Problem from the nodes of FX graphs.

    fx node                         in the Problem
    ------------------------------  -----------------------------------------------
    placeholder, get_attr           a buffer of the user's
    tangents                        results of a first op of the backward. No op writes over them,
                                    nor frees those that other code holds
    op with results of its own      an op, and a buffer for each result
    wait for a collective           an op that changes the collective's result and reads the tensors
                                    that it sends, so that both are alive until then
    view, alias, getitem            nothing: another name of a buffer
    op that changes its argument    an op that mutates
    fold of a gradient              an op that mutates the optimizer's state, and the parameter
    state that lies in a tier       a buffer of the user's there, and ops that load and store it
    number (sizes)                  nothing: known when the graph is planned

Two tensors are one buffer if their fake values share a storage. The values of the forward's results
and of the backward's placeholders are the same objects, which links the two graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx

from roam.capture.node_facts import (
    block_suffix,
    is_op,
    keeps_its_turn,
    lane,
    looks_at_storage,
    mutated,
    runs_once,
)
from roam.capture.origins import OriginNotes
from roam.capture.step_outputs import is_loss_gradient
from roam.capture.symbolic_sizes import Numbers
from roam.core import machine
from roam.core.build import ProblemBuilder
from roam.core.errors import UnplannableError
from roam.core.problem import Buffer, BufferId, Home, Kind, OpId, Tier
from roam.passes import gradient_release, move_to_tier, recompute_copies
from roam.passes.annotations import inplace, out_variants
from roam.passes.annotations.scratch import scratch
from roam.passes.collectives import being_sent, is_collective, is_wait
from roam.passes.geometry import storage_key, tensor_inputs, tensors, value
from roam.passes.graph_ops import module_path
from roam.passes.rewrites import split
from roam.passes.transfer_ops import LOAD_START

Turns = Literal["effects", "collectives"]  # ops of one kind stay in program order


class FxReader:
    """Reads the graphs of a step one after another, and makes buffers and ops of their nodes.

    Args:
        numbers: turns symbolic sizes into numbers.
        parameters: the names of the placeholders that are parameters.
        measured: by node, the scratch bytes that were measured.
        names: by name of a placeholder, the user's name of it.
        held: positions, among the backward's inputs, of the tangents that other code holds.
        costs: by node, its seconds.
    """

    def __init__(
        self,
        numbers: Numbers,
        parameters: frozenset[str],
        measured: Mapping[fx.Node, int],
        names: Mapping[str, str],
        held: Collection[int],
        costs: Mapping[fx.Node, float],
    ) -> None:
        self.numbers = numbers
        self.parameters = parameters
        self.measured = measured
        self.names = names
        self.copies: Counter[str] = Counter()  # by op, how many copies were seen
        self.held = held
        self.costs = costs
        self.build = ProblemBuilder()
        self.origins = OriginNotes()
        self.nodes: list[fx.Node | None] = []
        self.results: list[tuple[BufferId, ...]] = []
        self.buffer_of: dict[int, BufferId] = {}
        self.device_of: dict[BufferId, torch.device] = {}
        self.last_in: dict[Turns, OpId] = {}  # the last op of each kind that keeps its turn
        self.op_of: dict[str, OpId] = {}  # by name of its node, an op of the phase

    def read(self, graph: fx.Graph, phase: int) -> None:
        self.last_in, self.op_of = {}, {}
        if phase > 0:
            self.add_tangents(graph, phase)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.add_users(node, Kind.PARAMETER if node.name in self.parameters else Kind.INPUT)
            elif node.op == "get_attr":
                self.add_users(node, Kind.INPUT)
            elif gradient_release.META in node.meta:
                self.add_fold(node)
            elif node.target is gradient_release.stored:
                self.add_stored(node)
            elif node.op == "call_function" and is_op(node):
                self.add_op(node)
            elif node.op == "call_function" and looks_at_storage(node):
                self.leave_outside([self.buffer_of[storage_key(t)] for _, t in tensor_inputs(node)])
            elif node.op not in ("call_function", "output"):
                raise UnplannableError(f"{node.name}: a {node.op} node")

    def add_tangents(self, graph: fx.Graph, phase: int) -> None:
        """Adds the tangents: gradients of the outputs, which autograd makes before the backward.

        They are the results of one first op. They include zeros for outputs without a gradient.
        They are freed after their last use, unless something else keeps them alive.
        """
        known = len(self.build.buffers)
        for i, node in enumerate(graph.find_nodes(op="placeholder")):
            for tensor in tensors(node):
                b = self.add_buffer(node, node.name, tensor, Kind.TEMPORARY, Home.EXTERNAL)
                held = i in self.held or is_loss_gradient(self.numbers(tensor.numel()))
                if held and b >= known:  # no saved tensor, which has a buffer already
                    self.build.keep(b, Kind.TANGENT)
        made = tuple(range(known, len(self.build.buffers)))
        self.build.begin_phase(phase, made)
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
            align = machine.of(tensor.device.type).alignment
            home = Home.EXTERNAL if size == 0 and home is Home.ARENA else home
            b = self.build.add_buffer(name, size, kind, home, align=align, where=module_path(node))
            own = self.build.buffers[b].name
            self.origins.note_buffer(own, tensor.dtype, tensor.shape, node)
            self.buffer_of[key], self.device_of[b] = b, tensor.device
        return self.buffer_of[key]

    def add_op(self, node: fx.Node) -> None:
        if is_wait(node):
            self.share(node)
        reads = tuple(dict.fromkeys(self.buffer_of[storage_key(t)] for _, t in tensor_inputs(node)))
        if is_wait(node):
            sent = (self.buffer_of[storage_key(t)] for n in being_sent(node) for t in tensors(n))
            reads = tuple(dict.fromkeys((*reads, *sent)))
        mutates = tuple(dict.fromkeys(self.buffer_of[storage_key(t)] for t in mutated(node)))
        home = Home.ARENA if out_variants.META in node.meta else Home.EXTERNAL
        known = len(self.build.buffers)
        parts = tensors(node)
        names = [node.name] if len(parts) == 1 else [f"{node.name}.{i}" for i in range(len(parts))]
        kind = Kind.TEMPORARY
        if node.target is LOAD_START:
            names, kind = [self.op_name(node).removesuffix(".start")], Kind.STATE
        results = tuple(
            self.add_buffer(node, name, t, kind, home) for name, t in zip(names, parts, strict=True)
        )
        creates = tuple(dict.fromkeys(b for b in results if b >= known))
        turns = _turns(node)
        after = [self.op_of[n] for n in node.meta.get(move_to_tier.AFTER, ()) if n in self.op_of]
        if turns in self.last_in:
            after.append(self.last_in[turns])
        op = self.build.add_op(
            self.op_name(node),
            reads=reads,
            creates=creates,
            mutates=mutates,
            over=self.pairs(node, results, creates),
            scratch=self.scratch(node),
            cost=self.costs.get(node, 0.0),
            after=after,
            where=module_path(node),
            once=runs_once(node),
            lane=lane(node),
        )
        self.op_of[node.name] = op
        self.origins.note_op(self.build.ops[op].name, [node])
        if turns is not None:
            self.last_in[turns] = op
        self.nodes.append(node)
        self.results.append(results)
        if looks_at_storage(node):
            self.leave_outside(reads)

    def share(self, wait: fx.Node) -> None:
        """Notes that a wait returns its argument, though its fake value has other memory."""
        [made], [given] = tensors(wait), [t for _, t in tensor_inputs(wait)]
        self.buffer_of[storage_key(made)] = self.buffer_of[storage_key(given)]

    def op_name(self, node: fx.Node) -> str:
        """Returns the name of an op: a copy has that of the op that runs again, and a number."""
        if move_to_tier.META in node.meta:
            return str(node.meta[move_to_tier.META])
        if gradient_release.STORED in node.meta:
            return self.stored_name(node.meta[gradient_release.STORED])
        original: str | None = node.meta.get(recompute_copies.META)
        if original is None:
            return node.name + block_suffix(node.meta.get(split.META))
        self.copies[original] += 1
        return f"{original}~{self.copies[original]}"

    def stored_name(self, transfer: gradient_release.Transfer) -> str:
        return f"{self.buffer(transfer.parameter).name}.{transfer.state.name}{transfer.name}"

    def buffer(self, tensor: torch.Tensor) -> Buffer:
        return self.build.buffers[self.buffer_of[storage_key(tensor)]]

    def add_stored(self, node: fx.Node) -> None:
        """Adds a state that lies in a tier between steps. The node's value is its ticket."""
        transfer: gradient_release.Transfer = node.meta[gradient_release.STORED]
        self.buffer_of[storage_key(value(node))] = self.build.add_buffer(
            self.stored_name(transfer),
            transfer.state.nbytes,
            Kind.STATE,
            Home.USER,
            align=machine.PAGE,
            where=self.buffer(transfer.parameter).where,
            tier=Tier.FILE,
        )

    def add_fold(self, node: fx.Node) -> None:
        release: gradient_release.Release = node.meta[gradient_release.META]
        parameter = self.buffer_of[storage_key(release.parameter)]
        known = self.build.buffers[parameter]
        gradient: Any = node.args[2]
        loaded: Any = node.args[3] if not release.in_block else {}
        states = [self.buffer_of[storage_key(value(n))] for n in loaded.values()]
        self.build.add_fold(
            known.name,
            [self.buffer_of[storage_key(value(gradient))]],
            release.state,
            mutates=[*states, *([parameter] if release.writes_parameter else [])],
            scratch=release.scratch,
            cost=self.costs.get(node, 0.0),
            where=known.where,
            block=block_suffix(node.meta.get(split.META)),
        )
        self.nodes.append(node)
        self.results.append(())

    def leave_outside(self, buffers: Sequence[BufferId]) -> None:
        for b in buffers:
            if self.build.buffers[b].home is Home.ARENA:
                self.build.change(b, home=Home.EXTERNAL)

    def scratch(self, node: fx.Node) -> int:
        found = self.measured.get(node)
        return int(self.numbers(scratch(node))) if found is None else found

    def pairs(
        self, node: fx.Node, results: Sequence[BufferId], creates: Sequence[BufferId]
    ) -> tuple[tuple[BufferId, BufferId], ...]:
        over = [self.buffer_of[storage_key(value(n))] for n in node.meta.get(inplace.META, ())]
        return tuple((results[0], b) for b in dict.fromkeys(over) if results[0] in creates)

    def keep(self, returned: Sequence[Any], kind: Kind, home: Home | None = None) -> None:
        """Sets the kind of a graph's results. home: EXTERNAL if the user gets them."""
        for b in self.returned_buffers(returned):
            self.build.keep(b, kind, home)

    def returned_buffers(self, returned: Sequence[Any]) -> Iterator[BufferId]:
        for node in returned:
            if isinstance(node, fx.Node):
                yield from (self.buffer_of[storage_key(t)] for t in tensors(node))

    def choose_device(self) -> torch.device:
        """Puts the arena on the device that holds most of the arena-eligible bytes."""
        most: dict[torch.device, int] = {}
        arena = [b for b, buffer in enumerate(self.build.buffers) if buffer.home is Home.ARENA]
        for b in arena:
            device = self.device_of[b]
            most[device] = most.get(device, 0) + self.build.buffers[b].size
        device = max(most, key=lambda d: most[d]) if most else torch.device("cpu")
        self.leave_outside([b for b in arena if self.device_of[b] != device])
        return device


def _turns(node: fx.Node) -> Turns | None:
    """Returns the kind of ops among which an op stays in program order; None if it may move."""
    if is_collective(node):
        return "collectives"
    return "effects" if keeps_its_turn(node) else None
