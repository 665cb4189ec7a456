"""Turns a choice of kernels to recompute into the values that the forward saves.

The choice is made on the Problem of the kernels, because only after fusion it is known which
tensors take memory. But what is saved is decided on the joint graph, before fusion. So each buffer
of the forward is identified with the FX values in it (results of ops of the joint graph). To
recompute a buffer is to recompute the FX ops that lead from values in the buffers of other kernels
to the value in this buffer:

    kernels     mm ── buf3 ── gelu and sum ── buf4, buf5
    FX          mm = buf3 ── erf ── mul ── mul_1 = buf4
                              └── sum = buf5               recompute buf4: erf, mul, mul_1 of buf3

A value that is not saved is recomputed once, just before the first kernel of the backward that
reads it.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch._functorch.partitioners import get_default_op_list
from torch._inductor import inductor_prims
from torch._inductor.lowering import fallbacks, lowerings

from roam.capture.node_facts import runs_once
from roam.core.problem import BufferId, Home, Kind, OpId, Problem
from roam.inspect.recomputed import Again
from roam.lowering.inductor.partition import written
from roam.lowering.inductor.trial import Joint, Tried
from roam.passes.dependencies import needed_for
from roam.passes.geometry import is_view, value
from roam.passes.rewrites.split import META
from roam.passes.rewrites.split.blocks import IN_FORWARD
from roam.planner import Copies, Form, Step

ALWAYS_KEPT = 2_000  # a tensor of less than 1 / 2,000 of the peak is not dropped
SEEDED = (  # random ops that give the same numbers when recomputed: they read a saved seed
    inductor_prims.lookup_seed,
    inductor_prims.random,
    inductor_prims.randint,
)


@dataclass(frozen=True)
class SavedChoice:
    """Finds the kernels of the forward that may be recomputed, and the values to save for a choice.

    Attributes:
        tried: a trial of the graph, with its Problem and plan.
        joint: the joint graph of this trial.
    """

    tried: Tried
    joint: Joint

    @cached_property
    def problem(self) -> Problem:
        """The Problem of the trial, with the planned order as its program order."""
        return self.tried.problem.in_order(self.tried.plan.order)

    @cached_property
    def boundary(self) -> OpId:
        """The first op of the backward; the number of ops if there is no backward."""
        ops = self.problem.ops
        return next((i for i, op in enumerate(ops) if op.phase > 0), len(ops))

    @cached_property
    def nodes(self) -> Mapping[str, fx.Node]:
        return {n.name: n for n in self.joint.graph.nodes}

    @cached_property
    def wanted(self) -> Mapping[BufferId, tuple[fx.Node, ...]]:
        """By buffer that a kernel of the forward makes, the values that the buffer stands for.

        These are the values in the buffer that the trial's forward saves. If it saves none of them,
        it is the first value in the buffer. If the buffer is recomputed, these values are computed.
        """
        found: dict[BufferId, tuple[fx.Node, ...]] = {}
        saved = set(self.joint.saved)
        for b, names in self.tried.values.items():
            known = (self.nodes[name] for name in names if name in self.nodes)
            nodes = tuple(n for n in known if isinstance(value(n), torch.Tensor))
            nodes = tuple(n for n in nodes if n in saved) or nodes[:1]
            if nodes and self.problem.maker[b] is not None:
                found[b] = nodes
        return found

    @cached_property
    def buffer_of(self) -> Mapping[fx.Node, BufferId]:
        """By FX value, the buffer that holds it: made by a kernel, or an input of the graph."""
        found = {n: b for b, nodes in self.wanted.items() for n in nodes}
        for b, names in self.tried.values.items():
            found |= {self.nodes[n]: b for n in names if n in self.nodes}
        return found

    @cached_property
    def fixed(self) -> set[fx.Node]:
        """The FX nodes that the backward must not compute again.

        They have effects or are random (`runs_only_once`), read an input that the step changes, or
        run in the backward anyway.
        """
        # inputs that the step changes may hold other numbers in the backward than in the forward
        changed = set(written(self.joint.graph))
        once = {
            n for n in self.joint.graph.nodes if runs_only_once(n) or changed & {*n.all_input_nodes}
        }
        return once | self.joint.late

    @cached_property
    def step(self) -> Step:
        """The step, and for each op that may be recomputed, what its copy reads and makes (`Form`).

        A copy is taken to cost as much as the op. A value that the user's checkpoint() saves stays
        saved. A value that checkpoint() recomputes is read by no copy.
        """
        problem = self.problem
        tagged = {b for n, b in self.buffer_of.items() if n.meta.get("recompute") is not None}
        inputs = {b for n, b in self.buffer_of.items() if n.op == "placeholder"}
        saved = {b for op in problem.ops[self.boundary :] for b in op.touches}
        forms: dict[OpId, Form] = {}
        for i, op in enumerate(problem.ops[: self.boundary]):
            made = tuple(b for b in op.creates if b in self.wanted)
            reads = self._reads(i, made)
            if made and reads is not None and not (tagged - saved) & {*reads}:
                forms[i] = Form(reads, made, op.scratch, op.cost)
        smallest = self.tried.plan.peak // ALWAYS_KEPT
        starts = (self.boundary,)
        return Step(problem, self.boundary, forms, starts, smallest, frozenset(tagged | inputs))

    def _reads(self, i: OpId, made: Sequence[BufferId]) -> tuple[BufferId, ...] | None:
        """Returns the buffers that a copy of an op reads; None if the op is not to be recomputed.

        To recompute an op is to recompute some FX nodes. The op is not to be recomputed if one of
        these nodes must not be (`fixed`). Nor is it if they need an extern kernel besides the one
        that the op may be: in which buffer that kernel's result lies is unknown.

        Args:
            i: the op.
            made: the buffers of the op's results, as far as they stand for values (`wanted`).
        """
        own = {n for b in made for n in self.wanted[b]}
        inside = needed_for(own, lambda n: n in own or not self._is_held(n, i))
        if inside & self.fixed or any(n.op != "call_function" for n in inside):
            return None
        if sum(map(is_extern, inside)) > (i in self.tried.externs):
            return None  # a copy would need an extern kernel besides the op's own
        reads = {n for node in inside for n in node.all_input_nodes} - inside
        return tuple(sorted({self.buffer_of[n] for n in reads if n in self.buffer_of}))

    def _is_held(self, node: fx.Node, i: OpId) -> bool:
        """Returns whether a value exists before op i runs: an input, or in another op's buffer."""
        if node.op != "call_function":
            return True
        b = self.buffer_of.get(node)
        return b is not None and self.problem.maker[b] != i

    def saved(self, copies: Copies) -> tuple[str, ...]:
        """Returns the names of the values to save so that the ops of a choice are recomputed.

        These are the values that the trial saved, without those in buffers that need not be kept
        because copies make them anew, and with those that copies read. Their order is that of the
        joint graph.
        """
        again = {p.op for p in copies.placed}
        droppable = copies.step.droppable
        dropped = {b for i in again for b in copies.step.forms[i].creates if b in droppable}
        kept = {n for n in self.joint.saved if self.buffer_of.get(n) not in dropped}

        def runs(node: fx.Node) -> bool:
            if node.op != "call_function" or node in kept:
                return False
            b = self.buffer_of.get(node)
            return b is None or b in dropped

        inside = needed_for(set(self.joint.saved) - kept, runs)
        more = {n for node in inside for n in node.all_input_nodes} - inside
        saved = kept | {n for n in more if n.op in ("call_function", "placeholder")}
        return tuple(n.name for n in self.joint.graph.nodes if n in saved)


def runs_only_once(node: fx.Node) -> bool:
    """Returns whether an op must not be recomputed: it has effects, or draws new random numbers.

    Also returns True for users' own ops, which may do either, for ops that a rewrite split into
    blocks or marked for the forward, and for ops whose recomputation the user's checkpoint()
    decides.
    """
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    if META in node.meta or IN_FORWARD in node.meta or node.meta.get("recompute") is not None:
        return True
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return True
    known = target.namespace in ("aten", "prims", "roam")
    return not known or (target not in SEEDED and runs_once(node))


def is_extern(node: fx.Node) -> bool:
    """Returns whether Inductor calls an existing kernel for an op, instead of generating one."""
    target: Any = node.target
    if target is operator.getitem or is_view(node):
        return False
    packet = getattr(target, "overloadpacket", target)
    return target in fallbacks or packet in _COMPUTE_INTENSIVE or target not in lowerings


_COMPUTE_INTENSIVE = get_default_op_list().compute_intensive_ops


def by_module(stock: Tried, final: Tried) -> tuple[Again, ...]:
    """Returns, for each module of the model, what runs again because of a budget.

    These are the number of kernels that run again, their seconds, and the bytes of the module's
    tensors that the forward no longer saves. Modules with more seconds come first. The seconds are
    those of the forward's kernels. Fused with other ops of the backward, the same ops may take
    less.

    Args:
        stock: the trial without a budget. What its backward recomputes does not count.
        final: the trial of the choice.
    """
    ops: dict[str, list[float]] = defaultdict(list)
    if stock.joint is not None and final.joint is not None:
        usual = {n.name for n in stock.joint.again(stock.joint.saved)}
        again = {n.name for n in final.joint.again(final.joint.saved)} - usual
        for op in final.problem.ops:
            made = (name for b in op.creates for name in final.values.get(b, ()))
            if op.phase == 0 and not again.isdisjoint(made):
                ops[op.where].append(op.cost)
    before, after = _saved_bytes(stock.problem), _saved_bytes(final.problem)
    modules = (
        Again(m, len(ops[m]), sum(ops[m]), max(0, before[m] - after[m])) for m in {*ops, *before}
    )
    told = (m for m in modules if m.ops or m.saved)
    return tuple(sorted(told, key=lambda m: (-m.seconds, m.module)))


def _saved_bytes(problem: Problem) -> Counter[str]:
    found: Counter[str] = Counter()
    for buffer in problem.buffers:
        if buffer.kind is Kind.SAVED and buffer.home is not Home.USER:
            found[buffer.where] += buffer.transient
    return found
