"""Turns a plan into a graph of ATen kernels for each phase, and these graphs into Python code.

Emits each op in the plan's order. The emitted code depends on where the op's result lies:

    in a block             t = carve(block, offset, ...);  op.out(..., out=t)
    over a dying buffer    op.out(..., out=dying)          an input that no later op reads
    by itself              t = op(...)                     the operator allocates

(In the last case the code allocates t and calls `op.out` if another result of the op is in a block
or over a buffer, or if the operator by itself would read or allocate more than its tensors need.)

A block is one allocation that holds several tensors. The generated code drops every tensor after
its last use. So a block is freed with the last tensor carved out of it, and tensors outside of
blocks are freed as planned. With a pool (the option arena="keep") no block is freed: it returns to
the pool at the end of the phase in which its planned life ends, and the next step takes it again.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from roam.capture.fx_problem import Captured
from roam.capture.node_facts import ON_STORAGE
from roam.core.plan import Block, Plan
from roam.core.problem import BufferId, OpId
from roam.lowering.aten.boxed_code import boxed
from roam.lowering.aten.lowered import Lowered, SavedAt, size_of
from roam.passes import gradient_release
from roam.passes.annotations import inplace, out_variants
from roam.passes.collectives import being_sent, is_wait
from roam.passes.geometry import tensors, value
from roam.runtime.blocks import BlockPool, allocate, carve, twin
from roam.runtime.reused_inputs import ReusedInputs

aten = torch.ops.aten
# loss operators that return a small tensor in a storage as large as their input, unless given `out`
OVERSIZED = frozenset({aten.mse_loss.default, aten.smooth_l1_loss.default})


def lower(
    captured: Captured, plan: Plan, roots: Sequence[torch.nn.Module], pool: BlockPool | None
) -> Lowered:
    """Generates the callables that run a plan: the forward, and the backward if there is one.

    Args:
        captured: the Problem and the graphs that it was read from.
        plan: the plan of the Problem.
        roots: for each graph, the module that its get_attr nodes refer to.
        pool: keeps the plan's blocks (allocations) between steps; None if each step allocates and
            frees them.
    """
    graphs = [captured.forward, captured.backward]
    first = captured.problem.spans[0].stop if captured.problem.spans else 0
    emitters = [
        _Emitter(captured, plan, graph, times, pool)
        for graph, times in zip(graphs, (range(first), range(first, len(plan.order))), strict=True)
        if graph is not None
    ]
    forward, *rest = [
        boxed(e.emit(), root, f"roam_{n}")
        for n, root, e in zip("fb", roots, emitters, strict=False)
    ]
    folds = emitters[-1].absorb is not None
    if captured.backward is None:
        return Lowered(forward, None, (), (), ReusedInputs(), folds)
    given = [value(n) for n in captured.backward.find_nodes(op="placeholder")]
    sizes = tuple(size_of(g, captured.numbers) for g in given)
    saved = emitters[-1].saved
    return Lowered(
        forward, rest[0], saved, sizes, _reused_inputs(captured, plan, given, saved), folds
    )


def _reused_inputs(
    captured: Captured, plan: Plan, given: Sequence[Any], saved: Sequence[SavedAt]
) -> ReusedInputs:
    """Returns the positions of the backward's inputs whose memory the plan reuses or frees.

    Args:
        captured: the Problem and the graphs that it was read from.
        plan: the plan of the Problem.
        given: the fake values of the backward's inputs.
        saved: the places of the backward's inputs that lie in blocks, the plan's allocations.
    """
    blocks: dict[int, list[int]] = {}
    for at in saved:
        blocks.setdefault(at.block, []).append(at.argument)
    buffers = {i: captured.buffer(g) for i, g in enumerate(given) if isinstance(g, torch.Tensor)}
    outside = set(plan.reuse.values()) - plan.offsets.keys()
    first = captured.problem.ops[captured.nodes.index(None)]
    tangents = {b for b in first.creates if not captured.problem.buffers[b].kept}
    return ReusedInputs(
        blocks=tuple(map(tuple, blocks.values())),
        overwritten=frozenset(i for i, b in buffers.items() if b in outside),
        dying=frozenset(i for i, b in buffers.items() if b in tangents),
    )


def alive_until_here(*tensors: torch.Tensor) -> None:
    """Does nothing. A call after a collective's wait keeps the tensors sent alive until then."""


class _Emitter:
    """Writes one phase of a plan as a new FX graph, which `emit` returns.

    Attributes:
        captured: the Problem of the plan, and its graphs.
        plan: the plan of both phases.
        pool: keeps blocks between steps; None if each step frees them.
        old: the captured graph of the phase.
        times: the positions of the phase's ops in the plan's order.
        graph: the new graph.
        new: by node of the old graph, what stands for it in the new graph: a node, a tuple of nodes
            (several results), or a number (a symbolic size, now known).
        blocks: by a block's index in the plan, a node of the new graph whose tensor lies in it.
        saved: the places of a backward's inputs that lie in blocks; empty for a forward.
        absorb: the placeholder of the object that absorbs gradients into the optimizer's state
            (`gradient_release.RunFolds`), an input that `emit` adds. None if the phase folds none.
        made_at: by buffer of this phase, the position in the plan's order of the op that creates
            the buffer.
    """

    def __init__(
        self, captured: Captured, plan: Plan, old: fx.Graph, times: range, pool: BlockPool | None
    ) -> None:
        self.captured, self.plan, self.old, self.times = captured, plan, old, times
        self.pool = pool
        self.graph = fx.Graph()
        self.new: dict[fx.Node, Any] = {}
        self.blocks: dict[int, fx.Node] = {}
        self.saved: tuple[SavedAt, ...] = ()
        self.absorb: fx.Node | None = None
        self.made_at = {b: t for t in times for b in captured.problem.ops[plan.order[t]].creates}

    def emit(self) -> fx.Graph:
        for node in self.old.find_nodes(op="placeholder"):
            self.new[node] = self.graph.node_copy(node)
        if any(gradient_release.META in n.meta for n in self.old.nodes):
            self.absorb = self.graph.placeholder("absorb")
        if self.times.start > 0:
            self.find_blocks()
        for t in self.times:
            self.allocate_blocks(t)
            self.emit_op(self.plan.order[t])
        if self.pool is not None:
            self.put_back(self.pool)
        self.graph.output(fx.map_arg(self.old.output_node().args[0], self.value))
        return self.graph

    def find_blocks(self) -> None:
        """Notes the backward's inputs that lie in blocks (`saved`), and their blocks (`blocks`)."""
        found: list[SavedAt] = []
        for i, node in enumerate(self.old.find_nodes(op="placeholder")):
            tensor = value(node)
            if not isinstance(tensor, torch.Tensor):
                continue
            b = self.captured.buffer(tensor)
            if b in self.plan.offsets:
                k, block = self.block_of(b, self.times.start)
                inside = self.captured.numbers(tensor.storage_offset()) * tensor.element_size()
                offset = self.plan.offsets[b] - block.offset + inside
                found.append(SavedAt(i, k, offset, block.size))
                self.blocks.setdefault(k, self.new[node])
        self.saved = tuple(found)

    def allocate_blocks(self, t: int) -> None:
        for k, block in enumerate(self.plan.blocks):
            if block.lower == t:
                how = allocate if self.pool is None else self.pool.take
                self.blocks[k] = self.graph.call_function(how, (block.size, self.captured.device))

    def put_back(self, pool: BlockPool) -> None:
        """Emits calls, after the phase's last op, that return blocks to the pool.

        A block is returned in the phase in which its planned life ends: in the backward, if the
        backward reads a tensor in it.
        """
        for k, block in enumerate(self.plan.blocks):
            if k in self.blocks and block.upper <= self.times.stop:
                how = (self.blocks[k], 0, torch.uint8, (block.size,), (1,))
                whole = self.graph.call_function(carve, how)
                self.graph.call_function(pool.put_back, (whole,))

    def block_of(self, b: BufferId, t: int) -> tuple[int, Block]:
        offset = self.plan.offsets[b]
        for k, block in enumerate(self.plan.blocks):
            inside = block.offset <= offset < block.offset + block.size
            if inside and block.lower <= t < block.upper:
                return k, block
        raise AssertionError(f"buffer {b} lies in no block at {t}: the plan was not checked")

    def emit_op(self, i: OpId) -> None:
        node, results = self.captured.nodes[i], self.captured.results[i]
        if node is None:
            return
        if gradient_release.META in node.meta:
            self.with_run_folds(node)
            return
        variant: out_variants.OutVariant | None = node.meta.get(out_variants.META)
        given = [b in self.plan.offsets or b in self.plan.reuse for b in results]
        by_itself = not any(given) and node.target not in (ON_STORAGE | OVERSIZED)
        if variant is None or by_itself:
            self.new[node] = self.graph.node_copy(node, self.value)
            self.unpack(node)
            if is_wait(node):  # one more use of what is sent: else it is dropped before the wait
                sent = [self.value(n) for n in being_sent(node)]
                self.graph.call_function(alive_until_here, tuple(sent))
            return
        outs = [self.destination(node, b, t) for b, t in zip(results, tensors(node), strict=True)]
        call = self.graph.call_function(
            variant.target,
            fx.map_arg(node.args, self.value),
            {**fx.map_arg(node.kwargs, self.value), **dict(zip(variant.names, outs, strict=True))},
        )
        call.meta = dict(node.meta)
        self.new[node] = tuple(outs) if isinstance(value(node), (tuple, list)) else outs[0]

    def destination(self, node: fx.Node, b: BufferId, result: torch.Tensor) -> fx.Node:
        """Emits the tensor that an op writes a result to. Returns its node in the new graph.

        By the plan, the tensor lies in a block, in an allocation of its own, or is a dying input,
        which no later op reads. If the graph returns a result over a dying input, the result is a
        new tensor there (`twin`): the input may be a view, and autograd refuses writes to views.

        Args:
            node: the op, in the old graph.
            b: the buffer of the result.
            result: the fake value of the result.
        """
        if b in self.plan.reuse:
            dying = self.dying_input(node, self.plan.reuse[b])
            if not self.captured.problem.buffers[b].kept:
                return dying
            return self.graph.call_function(twin, (dying,))
        shape = self.captured.numbers.shape(result.shape)
        stride = self.captured.numbers.shape(result.stride())
        if b not in self.plan.offsets:
            how: dict[str, Any] = {"dtype": result.dtype, "device": result.device}
            return self.graph.call_function(torch.empty_strided, (shape, stride), how)
        k, block = self.block_of(b, self.made_at[b])
        offset = self.plan.offsets[b] - block.offset
        return self.graph.call_function(
            carve, (self.blocks[k], offset, result.dtype, shape, stride)
        )

    def dying_input(self, node: fx.Node, dying: BufferId) -> fx.Node:
        """Returns the new graph's node of the op's input that lies in the buffer `dying`.

        No later op reads this buffer, so the op may write its result over the input.

        Args:
            node: the op, in the old graph.
            dying: the buffer that the plan reuses for the op's result.
        """
        for source in node.meta[inplace.META]:
            if self.captured.buffer(value(source)) == dying:
                found = self.value(source)
                assert isinstance(found, fx.Node)
                return found
        raise AssertionError(f"{node.name} may not be written over buffer {dying}")

    def value(self, node: fx.Node) -> Any:
        """Returns the node of the new graph that stands for a node of the old graph.

        Emits views and parts of tuples when they are first needed. Returns a number in place of a
        symbolic size, and a tuple of nodes for an op whose results have a node each.
        """
        if node in self.new:
            return self.new[node]
        fake = value(node)
        if isinstance(fake, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.new[node] = self.captured.numbers(fake)
        elif node.target is operator.getitem:
            self.new[node] = self.part(node)
        elif node.target is gradient_release.stored:
            self.new[node] = self.with_run_folds(node)
        else:
            self.new[node] = self.graph.node_copy(node, self.value)
        return self.new[node]

    def with_run_folds(self, node: fx.Node) -> fx.Node:
        """Emits the call that does a fold or gets its state, on `absorb`, the object that folds."""
        _, *rest = fx.map_arg(node.args, self.value)
        return self.graph.call_function(node.target, (self.absorb, *rest))  # type: ignore[arg-type]

    def unpack(self, node: fx.Node) -> None:
        """Emits getitem for all results of a node at once.

        The node's tuple of results keeps all of them alive until the last getitem has run.
        """
        for user in node.users:
            if user.target is operator.getitem:
                self.value(user)
                self.unpack(user)

    def part(self, node: fx.Node) -> Any:
        whole = self.value(node.args[0])  # type: ignore[arg-type]
        if isinstance(whole, tuple):
            return whole[node.args[1]]  # type: ignore[index]
        return self.graph.call_function(operator.getitem, (whole, node.args[1]))
