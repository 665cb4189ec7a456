"""Moves tensors of the forward to a tier, and back in the backward.

    forward     h ── write_start ── ... ── write_wait ── written
                                                            │
    backward                          read_start ── ... ── read_wait ── h' ── the readers of h

What is moved and when is decided elsewhere (solvers/offload). A planner may reorder the ops of the
graph, so the pass notes on nodes which others must run before them (`AFTER`): that keeps a transfer
beside the ops that it was chosen to run beside. This pass must run after every pass that merges
equal calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import fx

from roam.core.machine import Bytes
from roam.passes.geometry import storage_key, tensors, value
from roam.passes.graph_ops import add_op
from roam.passes.stand_ins import StandIns, in_phase
from roam.passes.transfer_ops import OPEN_SLOTS, READ_START, READ_WAIT, WRITE_START, WRITE_WAIT

META = "roam_transfer"  # on a transfer's node: the name of its op
AFTER = "roam_after"  # on any node: names of nodes that run before it
SLOTS = "slots"  # the op that opens the region


def names(source: fx.Node) -> tuple[str, str]:
    """Returns the names of a tensor in the tier and of what comes back, as in core/offload.py.

    Each of the two ways is a pair of ops, named after the tensor: `.start` and `.wait`.
    """
    return f"{source.name}~file~1", f"{source.name}~1"


@dataclass(frozen=True)
class Move:
    """One tensor that moves.

    Attributes:
        source: the node that makes it: an op of the forward, or one result of an op.
        offset: bytes from the start of the region to its slot.
        write_before: the op of the forward that must not run before the write has started; None if
            no op of the forward runs while the tensor is written.
        wait_behind: the op that must run before the write is waited for; None for the last one of
            the forward.
        read_before: the op of the backward that must not run before the read has started.
        used_behind: the op of the backward that must run before the read is waited for; None if no
            op runs while the tensor is read.
    """

    source: fx.Node
    offset: Bytes
    write_before: fx.Node | None
    wait_behind: fx.Node | None
    read_before: fx.Node
    used_behind: fx.Node | None


@dataclass(frozen=True)
class MoveToTier:
    """Adds the transfers of `moves`.

    Attributes:
        moves: in the order in which their tensors are made.
        tier: the name of the tier, for `open_slots`.
        nbytes: of the region that all slots lie in.
    """

    moves: Sequence[Move]
    tier: str
    nbytes: Bytes
    name: str = "move_to_tier"

    def __call__(self, module: fx.GraphModule) -> int:
        if self.moves:
            _Mover(self, module.graph).run()
            module.recompile()
        return len(self.moves)


class _Mover:
    """Adds transfers to one joint graph."""

    def __init__(self, asked: MoveToTier, graph: fx.Graph) -> None:
        self.asked, self.graph = asked, graph
        self.place: dict[fx.Node, float] = {node: n for n, node in enumerate(graph.nodes)}
        ops = [n for n in self.place if n.op == "call_function"]
        tags = [n.meta.get("partitioner_tag") for n in ops]
        # a step of one graph goes on after its backward, with ops that are not tagged as such
        first = tags.index("is_backward") if "is_backward" in tags else len(tags)
        forward = [n for n, tag in zip(ops[:first], tags, strict=False) if tag == "is_forward"]
        self.end = forward[-1]
        self.uses: dict[tuple[Hashable, int], Hashable] = {}
        self.found = StandIns(self.uses)

    def run(self) -> None:
        readers = self.readers()
        first = min((m.source for m in self.asked.moves), key=self.place.__getitem__)
        with self.graph.inserting_after(first):
            region = add_op(first, OPEN_SLOTS, self.asked.tier, self.asked.nbytes, name=SLOTS)
        _tag(region, "is_forward")
        self.place[region] = self.at(first) + 0.25
        for move in self.asked.moves:
            key = storage_key(value(move.source))
            before = min(*readers[key], move.read_before, key=self.at)
            behind = move.wait_behind
            if behind is None or self.at(behind) >= self.at(before):
                behind = self.end
            written = self.write(move, region, behind)
            self.read(move, written, readers[key])
            self.uses |= {(reader, key): move.source for reader in readers[key]}
        self.found.turn_readers()

    def readers(self) -> dict[int, list[fx.Node]]:
        """Returns, by storage, the nodes of the backward that read tensors of the forward."""
        found: dict[int, list[fx.Node]] = defaultdict(list)
        for node, n in self.place.items():
            if n > self.place[self.end] and node.op == "call_function":
                early = (s for s in node.all_input_nodes if self.place[s] <= self.place[self.end])
                for key in {storage_key(t): None for s in early for t in tensors(s)}:
                    found[key].append(node)
        return found

    def write(self, move: Move, region: fx.Node, behind: fx.Node) -> fx.Node:
        """Adds the write of a tensor; returns the node that tells that it is in the tier."""
        source = move.source
        stem = names(source)[0]
        start_behind = max(source, region, key=self.at)
        with self.graph.inserting_after(start_behind):
            how = source, region, move.offset, source.name
            ticket = add_op(source, WRITE_START, *how, name=f"{source.name}_write_start")
        _tag(ticket, "is_forward", f"{stem}.start")
        self.place[ticket] = self.at(start_behind) + 0.5
        if move.write_before is not None:
            _run_after(move.write_before, ticket)
        with self.graph.inserting_after(max(ticket, behind, key=self.at)):
            written = add_op(source, WRITE_WAIT, source, ticket, name=f"{source.name}_write_wait")
        late = self.at(behind) > self.at(self.end)
        _tag(written, "is_backward" if late else "is_forward", f"{stem}.wait")
        _run_after(written, behind)
        return written

    def read(self, move: Move, written: fx.Node, readers: Sequence[fx.Node]) -> None:
        """Adds the read of a tensor, and makes it the stand-in of the move's source."""
        source, tensor = move.source, value(move.source)
        reader = min(readers, key=self.at)
        stem = names(source)[1]
        with self.graph.inserting_before(min(reader, move.read_before, key=self.at)):
            how = written, [*tensor.shape], [*tensor.stride()], tensor.dtype
            back = add_op(source, READ_START, *how, name=f"{source.name}_read_start")
        with self.graph.inserting_before(reader):
            again = add_op(source, READ_WAIT, back, written, name=f"{source.name}_read_wait")
        for node, end in ((back, "start"), (again, "wait")):
            _tag(node, "is_backward", f"{stem}.{end}")
        _run_after(move.read_before, back)
        if move.used_behind is not None:
            _run_after(again, move.used_behind)
        self.found.made[source, source] = again
        self.found.before[source] = reader

    def at(self, node: fx.Node) -> float:
        return self.place[node]


def _run_after(node: fx.Node, earlier: fx.Node) -> None:
    node.meta[AFTER] = (*node.meta.get(AFTER, ()), earlier.name)


def _tag(node: fx.Node, phase: str, op: str | None = None) -> None:
    in_phase(node, phase)
    node.meta.pop(AFTER, None)
    if op is not None:
        node.meta[META] = op
