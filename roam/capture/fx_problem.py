"""Reads a Problem out of the graphs of a step, forward and backward (see `fx_reader`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from torch import fx

from roam.capture.fx_reader import FxReader
from roam.capture.symbolic_sizes import Numbers
from roam.core import machine
from roam.core.origins import NO_ORIGINS, Origins
from roam.core.problem import Buffer, BufferId, Home, Kind, Lane, Problem
from roam.passes.geometry import storage_key


@dataclass
class Captured:
    """A Problem, and the graphs it was read from.

    Attributes:
        problem: the Problem.
        forward: the forward.
        backward: the backward; None if there is none.
        nodes: by op, its fx node; None for the op that creates the tangents.
        results: by op, its buffers, in the order of the node's results.
        buffer_of: by storage key, the buffer.
        numbers: turns symbolic sizes into numbers.
        device: the device of the arena.
        origins: lines of the user's code, and shapes.
    """

    problem: Problem
    forward: fx.Graph
    backward: fx.Graph | None
    nodes: list[fx.Node | None]
    results: list[tuple[BufferId, ...]]
    buffer_of: dict[int, BufferId]
    numbers: Numbers
    device: torch.device
    origins: Origins = NO_ORIGINS

    def buffer(self, tensor: torch.Tensor) -> BufferId:
        return self.buffer_of[storage_key(tensor)]

    def names_of(self, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
        """Returns the names of the ops of these nodes, in program order."""
        wanted = set(nodes)
        pairs = zip(self.problem.ops, self.nodes, strict=True)
        return tuple(op.name for op, node in pairs if node in wanted)


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
    costs: Mapping[fx.Node, float] | None = None,
) -> Captured:
    """Returns the Problem of a forward graph and, in training, of its backward.

    Args:
        name: the name of the Problem.
        forward: the forward.
        backward: its backward; None if there is none.
        numbers: turns symbolic sizes into numbers.
        outputs: how many of the forward's results are the user's; the others are saved.
        parameters: the names of the placeholders that are parameters.
        measured: by node, the scratch bytes that were measured.
        names: by name of a placeholder, the user's name of it.
        held: positions, among the backward's inputs, of the tangents that other code holds.
        stands_for: the device whose alignment is planned for, if not that of the tensors.
        costs: by node, its seconds, if known.

    Raises:
        UnplannableError: a node cannot be planned. Names the node.
    """
    reader = FxReader(numbers, parameters, measured or {}, names or {}, held, costs or {})
    graphs = [forward] if backward is None else [forward, backward]
    for phase, graph in enumerate(graphs):
        reader.read(graph, phase)
    reader.keep(_outputs(forward)[:outputs], Kind.OUTPUT, Home.EXTERNAL)
    if backward is not None:
        reader.keep(_outputs(forward)[outputs:], Kind.SAVED)
        reader.keep(_outputs(backward), Kind.GRADIENT, Home.EXTERNAL)
    device = reader.choose_device()
    problem = reader.build.problem(name)
    if stands_for is not None:
        align = machine.of(stands_for.type).alignment
        buffers = (replace(b, align=align) for b in problem.buffers)
        problem = replace(problem, buffers=tuple(buffers))
    if any(op.lane in (Lane.COPY_IN, Lane.COPY_OUT) for op in problem.ops):
        problem = replace(problem, buffers=tuple(map(_in_sectors, problem.buffers)))
    return Captured(
        problem=problem,
        forward=forward,
        backward=backward,
        nodes=reader.nodes,
        results=reader.results,
        buffer_of=reader.buffer_of,
        numbers=numbers,
        device=device,
        origins=reader.origins.origins(),
    )


def _in_sectors(buffer: Buffer) -> Buffer:
    """Returns the buffer with the alignment of a disk's sector, if it is large and planned.

    A direct transfer needs no copy if a tensor comes back to an address that is equal, modulo the
    sector, to the address that it was written from. With this alignment it is.
    """
    large = buffer.home is Home.ARENA and buffer.size >= machine.MIB
    return replace(buffer, align=max(buffer.align, machine.SECTOR)) if large else buffer


def _outputs(graph: fx.Graph) -> Sequence[Any]:
    (returned,) = graph.output_node().args
    return returned if isinstance(returned, (tuple, list)) else (returned,)
