"""Writes the methods that were chosen for saved tensors into a joint graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes.geometry import tensors, value
from roam.passes.graph_ops import add_op
from roam.passes.rewrites.saved.choice import Choice
from roam.passes.rewrites.saved.noise import SEEDS, Noise
from roam.passes.rewrites.saved.rewrite import Parts, Replaced, Restored
from roam.passes.rewrites.saved.tensors import aliases, is_late
from roam.passes.rewrites.split.blocks import IN_FORWARD
from roam.passes.stand_ins import in_phase
from roam.passes.traced import Tracer

aten = torch.ops.aten
EARLY, LATE = "is_forward", "is_backward"


class Writer:
    """Keeps tensors of a graph smaller.

    Args:
        graph: the joint graph.
        tracer: adds the ops of the methods.
        choice: which tensors are kept smaller, and how.
        streams: by tensor, the number of its random numbers.
    """

    def __init__(
        self,
        graph: fx.Graph,
        tracer: Tracer,
        choice: Choice,
        streams: Mapping[fx.Node, int],
    ) -> None:
        self.graph, self.tracer, self.streams = graph, tracer, streams
        self.saved, chains = choice.tensors, choice.chains
        self.chosen = {n: smaller.method for n, smaller in choice.chosen.items()}
        self.place = {n: i for i, n in enumerate(graph.nodes)}
        self.restored = {n for n, how in self.chosen.items() if isinstance(how, Restored)}
        self.again = {
            n: c for n, c in chains.items() if n not in self.chosen and self.restored & {*c.sources}
        }
        self.seeds: dict[torch.device, fx.Node] = {}

    def write(self) -> None:
        small = {n: self._keep(n) for n in self.chosen}
        self._restore(small)
        for node, how in self.chosen.items():
            if isinstance(how, Replaced):
                self._replace(how, small[node])

    # ---- forward ----

    def _keep(self, node: fx.Node) -> list[fx.Node]:
        """Adds what is saved in place of a tensor, just after the tensor."""
        how, seed = self.chosen[node], self._seed(node)

        def keep(x: Tensor, seed: Tensor) -> Parts:
            return how.keep(x, Noise(seed, self.streams[node]))

        with self.graph.inserting_before(node.next):
            small = self.tracer.add(node, EARLY, keep, node, seed)
        for part in small:
            part.meta[IN_FORWARD] = True
        return small

    def _seed(self, node: fx.Node) -> fx.Node:
        """Returns the seed of the step, drawn before all other ops of the forward."""
        device = value(node).device
        if device not in self.seeds:
            first = next(n for n in self.graph.nodes if n.op == "call_function")
            with self.graph.inserting_before(first):
                how = {"dtype": torch.int64, "device": device, "pin_memory": False}
                seed = add_op(node, aten.randint.low, 0, SEEDS, [1], name="sampling_seed", **how)
            in_phase(seed, EARLY)
            self.seeds[device] = seed
        return self.seeds[device]

    # ---- backward ----

    def _replace(self, how: Replaced, small: list[fx.Node]) -> None:
        for reader, result in how.results.items():
            with self.graph.inserting_before(reader):
                call = partial(_called, result.call, len(small))
                operands: Any = (reader.args[i] for i in result.operands)
                [new] = self.tracer.add(reader, LATE, call, *small, *operands)
            reader.replace_all_uses_with(new)
            self.graph.erase_node(reader)

    def _restore(self, small: Mapping[fx.Node, list[fx.Node]]) -> None:
        """Gives the readers in the backward what is restored, and what is made of that."""
        nodes = sorted({*self.restored, *self.again}, key=self.place.__getitem__)
        before = self._first_readers(nodes)
        made: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            if node in self.restored:
                how = self.chosen[node]
                assert isinstance(how, Restored)
                call = partial(_called, how.restore, len(small[node]))
                with self.graph.inserting_before(before[node]):
                    [made[node]] = self.tracer.add(before[node], LATE, call, *small[node])
        inside = {op for chain in self.again.values() for op in chain.ops}
        inside |= {alias for node in nodes for alias in aliases(node)}
        for node in nodes:
            for reader in self.saved[node].readers:
                with self.graph.inserting_before(before[node]):
                    self._copy(_early(reader.operand), made, inside)
        for node in nodes:
            for reader in self.saved[node].readers:
                with self.graph.inserting_before(reader.op):
                    stand_in = self._copy(reader.operand, made, inside)
                reader.op.replace_input_with(reader.operand, stand_in)

    def _copy(self, node: fx.Node, made: dict[fx.Node, fx.Node], inside: set[fx.Node]) -> fx.Node:
        """Returns a node of the forward as the backward makes it of what is restored."""
        if node in made or node not in inside:
            return made.get(node, node)
        given = {n: self._copy(n, made, inside) for n in node.all_input_nodes}
        if all(n is g for n, g in given.items()):
            return node
        copy = self.graph.node_copy(node, given.__getitem__)
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), value)
        with torch.no_grad(), tensors(node)[0].fake_mode:  # type: ignore[attr-defined]
            copy.meta = dict(node.meta, val=node.target(*args, **kwargs))  # type: ignore[operator]
        in_phase(copy, LATE)
        made[node] = copy
        return copy

    def _first_readers(self, nodes: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
        """Returns where tensors are restored: before the first reader of all made of the same."""
        first = {n: self.saved[n].readers[0].op for n in nodes}
        changed = True
        while changed:
            changed = False
            for node, chain in self.again.items():
                group = [node, *(s for s in chain.sources if s in self.restored)]
                least = min((first[n] for n in group), key=self.place.__getitem__)
                changed |= any(first[n] is not least for n in group)
                first |= dict.fromkeys(group, least)
        return first


def _early(node: fx.Node) -> fx.Node:
    """Returns the node of the forward of which a node is a view that the backward takes."""
    while is_late(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _called(call: object, parts: int, *given: Tensor) -> Tensor:
    """Calls the function of a result with what is saved, a tuple, and the operands."""
    found: Tensor = call(given[:parts], *given[parts:])  # type: ignore[operator]
    return found
