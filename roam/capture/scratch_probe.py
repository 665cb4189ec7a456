"""Measures what operators allocate for themselves, by running each on zeros.

Convolutions reorder their operands, attention keeps blocks of scores, a product copies an operand
that does not lie right: how much, the kernels decide, by shape, layout and the machine. So each
distinct call (op, shapes, strides, types) is run before its graph is planned, and the allocator's
events are read: scratch = peak - what the results need. Calls are remembered for the process.

No more than CAP bytes are real at a time, whatever the sizes of the step: a call that would take
more is measured at smaller sizes, and the scratch space of its own is estimated from those.

    softmax(6 GiB)      at 30, 35 and 40 rows: 0, 0, 0                ->  0
    conv2d(4 GiB)       at 96, 112 and 128 pixels: 1.1, 1.5, 2.0 MiB  ->  8 GiB

Pointwise ops are not run: what they allocate is known (passes/scratch.py). On devices other than
the CPU nothing is measured.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.autograd import profiler_legacy

from roam.capture.isolation import aside, settings
from roam.capture.node_facts import is_op
from roam.capture.op_calls import (
    STEP,
    Call,
    Family,
    Limits,
    Operand,
    families,
    may_run_alone,
)
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError
from roam.passes.geometry import tensor_inputs, tensors

log = logging.getLogger("roam")

CAP = 2**26  # bytes that may be real at a time
AT_ONCE = 2**21  # bytes of operands and results of a call that is run without an estimate first
ESTIMATED = 2**24  # bytes of those of the largest call that an estimate goes by
CURVED = Fraction(1, 20)  # growth of the growth from which on it is taken for a square
BLOCK = 64  # sizes that an estimate goes by differ by a multiple: kernels work in blocks


@dataclass(frozen=True)
class Scratch:
    """Bytes that a call allocates for itself; estimated if it was not run at its own sizes."""

    nbytes: int
    estimated: bool = False


_known: dict[Any, Scratch] = {}


def probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Scratch]:
    """Scratch space of the ops that were measured."""
    return aside(partial(_probe, graphs, numbers))


def _probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Scratch]:
    found: dict[fx.Node, Scratch] = {}
    for node in (n for graph in graphs for n in graph.nodes if _is_worth_it(n)):
        try:
            call = Call.of(node, numbers)
            needed = sum(int(numbers(t.untyped_storage().nbytes())) for t in tensors(node))
        except UnplannableError:
            continue  # a size that depends on data: the capture names it
        key = call.key, settings()
        if key not in _known:
            _known[key] = _scratch(call, needed)
        found[node] = _known[key]
    return found


def is_measured(target: Any) -> bool:
    """Whether ops of this kind are run."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    if torch.Tag.pointwise in target.tags:
        return False
    return may_run_alone(target)


def _is_worth_it(node: fx.Node) -> bool:
    if node.op != "call_function" or not is_measured(node.target) or not is_op(node):
        return False
    everything = [*tensors(node), *(t for _, t in tensor_inputs(node))]
    return bool(tensors(node)) and all(
        t.device.type == "cpu" and t.layout is torch.strided for t in everything
    )


def _scratch(call: Call, needed: int) -> Scratch:
    """Measures a call at its own sizes, if it takes no more than the cap; else estimates.

    needed: bytes of its results' storages. Some ops (reduced losses) return larger ones.
    """
    whole = max(call.nbytes, needed)
    if whole <= AT_ONCE:
        return Scratch(_measure(call, needed))
    rough = _estimate(call, AT_ONCE)
    if rough is None and whole > CAP // 8:
        log.debug("%s: no call of it is small enough to be measured", call.target)
        return Scratch(0, estimated=True)
    if whole + (rough or 0) <= CAP:
        return Scratch(_measure(call, needed))
    room = CAP // 2 * whole // (whole + (rough or 0))
    found = _estimate(call, max(AT_ONCE, min(ESTIMATED, room)))
    return Scratch(found or rough or 0, estimated=True)


def _estimate(call: Call, nbytes: int) -> int | None:
    """What a call would take, from calls of up to `nbytes`; None if the operator takes none."""
    for family in families(call):
        limits = family.within(nbytes)
        if limits is None:
            continue
        try:
            return _Curve(family).at_full_size(limits)
        except Exception as error:  # these sizes are related otherwise
            log.debug("%s cannot be measured: %r", call.target, error)
    return None


@dataclass
class _Curve:
    """Scratch space of a family of calls, as a product of polynomials of its sizes.

    It is a constant (blocks for each thread), or a copy of an operand, or something between
    operands (a convolution's columns): in each size it is constant, linear or square.
    """

    family: Family
    measured: dict[Limits, int] = field(default_factory=dict)

    def at_full_size(self, top: Limits) -> int:
        """Extrapolates from three sizes a group, of which `top` are the largest."""
        full = self.family.full
        points = {i: _points(full[i], top[i]) for i in range(len(full)) if top[i] < full[i]}
        moved = {
            i: sizes
            for i, sizes in points.items()
            if len({self.at(_with(top, {i: n})) for n in sizes}) > 1
        }
        return max(0, round(self.extrapolated(top, moved)))

    def extrapolated(self, at: Limits, points: Mapping[int, Sequence[int]]) -> Fraction:
        if not points:
            return Fraction(self.at(at))
        (i, sizes), *rest = points.items()
        values = [self.extrapolated(_with(at, {i: n}), dict(rest)) for n in sizes]
        return _extrapolated(sizes, values, self.family.full[i])

    def at(self, limits: Limits) -> int:
        if limits not in self.measured:
            self.measured[limits] = _run(self.family.at(limits))
        return self.measured[limits]


def _points(full: int, top: int) -> tuple[int, int, int]:
    """Three sizes, evenly apart, that end in `top` and have the remainder of the full size."""
    apart = max(STEP, top // 8 // BLOCK * BLOCK)
    while top - 2 * apart < 1:
        apart //= 2
    return top - 2 * apart, top - apart, top


def _with(limits: Limits, changed: Mapping[int, int]) -> Limits:
    return tuple(changed.get(i, n) for i, n in enumerate(limits))


def _extrapolated(sizes: Sequence[int], values: Sequence[Fraction], at: int) -> Fraction:
    """The value further out of a constant, a straight line or a parabola."""
    a, b, c = values
    apart = sizes[1] - sizes[0]
    steps = Fraction(at - sizes[2], apart)
    growth, bend = c - b, (c - b) - (b - a)
    if c <= a:
        return max(values)  # less for more: no size decides it, but the kernel's choices
    if abs(bend) <= CURVED * abs(growth):
        return c + (c - a) / 2 * steps
    return c + growth * steps + bend * steps * (steps + 1) / 2


def _run(call: Call) -> int:
    """The scratch space of a small call. Raises what the operator raises."""
    peak, needed = _run_on_zeros(call)
    return max(0, peak - needed)


def _measure(call: Call, needed: int) -> int:
    """The scratch space of a call at its own sizes. An op that cannot take zeros has none known."""
    try:
        peak, _ = _run_on_zeros(call)
    except Exception as error:
        log.debug("%s cannot be measured on zeros: %r", call.target, error)
        return 0
    return max(0, peak - needed)


def _run_on_zeros(call: Call) -> tuple[int, int]:
    """Runs a call. Returns the highest sum of the allocator's events, and bytes of the results."""
    made = call.made(_zeros)
    collects = gc.isenabled()
    gc.disable()  # garbage from before must not die, and be counted, inside
    profiler = profiler_legacy.profile(profile_memory=True)
    profiler.__enter__()
    try:
        results = call.target(*made.args, **made.kwargs)
    finally:
        records: Any = torch.autograd._disable_profiler_legacy()  # type: ignore[attr-defined]
        if collects:
            gc.enable()
    changes = [r.cpu_memory_usage() for t in records for r in t if r.kind() == "memory_alloc"]
    found = torch.utils._pytree.tree_leaves(results)
    return _peak(changes), sum(t.nbytes for t in found if isinstance(t, torch.Tensor))


def _peak(changes: Sequence[int]) -> int:
    now = highest = 0
    for change in changes:
        now += change
        highest = max(highest, now)
    return highest


def _zeros(x: Operand) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=x.device).zero_()
