"""Measures what operators allocate for themselves, by running each on zeros.

Convolutions reorder their operands, attention keeps blocks of scores, a matrix product copies an
operand whose layout it cannot use. How many bytes that takes depends on shapes, layouts and the
machine. So each distinct call (op, shapes, strides, types) is run before its graph is planned, and
the allocator's events are read: scratch = peak - bytes of the results. The process remembers the
result of each call.

No more than CAP bytes are written at a time, whatever the sizes of the step. Operands are zeros
that nobody has written, which take no memory to read. A call that would write more, or has more
than READ bytes, is measured at smaller sizes, and its scratch space is extrapolated from those.

    softmax(6 GiB)      at 30, 35 and 40 rows: 0, 0, 0                ->  0
    conv2d(4 GiB)       at 96, 112 and 128 pixels: 1.1, 1.5, 2.0 MiB  ->  8 GiB

Pointwise ops are not run: what they allocate is known (passes/annotations/scratch.py). On devices
other than the CPU nothing is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from roam.capture.node_facts import is_op
from roam.capture.op_calls import (
    STEP,
    Call,
    Family,
    Limits,
    Operand,
    congruent,
    families,
    may_run_alone,
)
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError
from roam.core.machine import CPU
from roam.passes import add_mm
from roam.passes.geometry import tensor_inputs, tensors
from roam.runtime.allocations import measured_peak
from roam.runtime.isolation import aside, settings

log = logging.getLogger("roam")

CAP = 2**26  # bytes that results and scratch space may take at a time
READ = 2**28  # bytes of operands and results of the largest call that is run: a second's work
AT_ONCE = 2**21  # bytes of operands and results up to which a call is run without an estimate
ESTIMATED = 2**24  # bytes of operands and results of the largest call that an estimate runs
CURVED = Fraction(1, 20)  # second difference over first from which on growth counts as quadratic
ROUNDED = Fraction(5, 4)  # how far above n²'s that ratio may be, as kernels round sizes up
FAR = 4  # a size that tells steps from growth is this many times the largest one of an estimate
BLOCK = 64  # the sizes of an estimate differ by multiples of this, as kernels work in blocks


@dataclass(frozen=True)
class Scratch:
    """Bytes that a call allocates for itself.

    estimated: whether they were extrapolated from calls at smaller sizes.
    """

    nbytes: int
    estimated: bool = False


_known: dict[Any, Scratch] = {}


def probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Scratch]:
    """Returns the scratch space of all ops that can be measured, by node."""
    return aside(partial(_probe, graphs, numbers))


def _probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Scratch]:
    found: dict[fx.Node, Scratch] = {}
    for node in (n for graph in graphs for n in graph.nodes if _is_worth_it(n)):
        try:
            call = Call.of(node, numbers)
            needed = sum(int(numbers(t.untyped_storage().nbytes())) for t in tensors(node))
        except UnplannableError:
            continue  # a size depends on data: the capture raises the error
        key = call.key, settings()
        if key not in _known:
            _known[key] = _scratch(call, needed)
        found[node] = _known[key]
    return found


def is_measured(target: Any) -> bool:
    """Returns whether calls of this operator are run to measure them."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target.namespace != "aten" and target is not add_mm.OP:
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


def _scratch(call: Call, needed: int, read: int = READ, estimated: int = ESTIMATED) -> Scratch:
    """Measures a call at full size if it writes at most CAP bytes, and else estimates it.

    Args:
        call: the call.
        needed: bytes of the storages of its results. Some ops (reduced losses) return a small
            tensor in a large storage.
        read: limit on the bytes of operands and results of a call that is run at full size.
        estimated: limit on the bytes of operands and results of a call that an estimate runs.
    """
    whole = max(call.nbytes, needed)
    if whole <= AT_ONCE:
        return Scratch(_measure(call, needed))
    rough = _estimate(call, AT_ONCE)
    if rough is None and whole > CAP // 8:
        log.debug("%s: no call of it is small enough to be measured", call.target)
        return Scratch(0, estimated=True)
    if whole <= read and needed + (rough or 0) <= CAP:
        return Scratch(_measure(call, needed))
    room = CAP // 2 * whole // (whole + (rough or 0))
    found = _estimate(call, max(AT_ONCE, min(estimated, room)))
    return Scratch(found or rough or 0, estimated=True)


def _estimate(call: Call, nbytes: int) -> int | None:
    """Extrapolates the scratch space of a call, in bytes, from calls of up to `nbytes`.

    Returns None if no smaller call is valid.
    """
    for family in families(call):
        limits = family.within(nbytes)
        if limits is None:
            continue
        try:
            return _Curve(family).at_full_size(limits)
        except Exception as error:  # the guess at how sizes are related was wrong
            log.debug("%s cannot be measured: %r", call.target, error)
    return None


@dataclass
class _Curve:
    """The scratch space of a family of calls as a function of its sizes.

    Scratch space is a constant (blocks for each thread), or a copy of an operand, or a product of
    sizes of several operands (a convolution's columns). So in each size it is constant, linear or
    quadratic. If a kernel's blocks depend on the size, it grows in steps beside, which three sizes
    near each other cannot tell from growth. So a size further off is measured if the values lie on
    no curve, or grow by less than a copy of any operand would.
    """

    family: Family
    measured: dict[Limits, int] = field(default_factory=dict)

    def at_full_size(self, top: Limits) -> int:
        """Extrapolates bytes from three sizes of each group, of which `top` are the largest."""
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
        full = self.family.full[i]

        def value(n: int) -> Fraction:
            return self.extrapolated(_with(at, {i: n}), dict(rest))

        values = [value(n) for n in sizes]
        whole = _with(at, {j: self.family.full[j] for j, _ in rest})
        before, after = (_with(whole, {i: n}) for n in sizes[1:])
        growth = values[2] - values[1]
        if _grows_in_steps(sizes, values) or 0 < growth < self.least_copied(before, after):
            far = congruent(full, FAR * sizes[2])
            return _on_a_line((sizes[2], values[2]), (far, value(far)), full)
        return _extrapolated(sizes, values, full)

    def least_copied(self, before: Limits, after: Limits) -> int:
        """Returns the smallest growth, in bytes, of an operand or a result from limits to others.

        Returns 0 if none grows. A copy of an operand or result that grows adds at least as much to
        the scratch space.

        Args:
            before, after: the limits.
        """
        smaller, larger = (self.family.at(limits) for limits in (before, after))
        pairs = zip(
            (*smaller.operands, *smaller.results), (*larger.operands, *larger.results), strict=True
        )
        return min((more for a, b in pairs if (more := b.nbytes - a.nbytes) > 0), default=0)

    def at(self, limits: Limits) -> int:
        if limits not in self.measured:
            self.measured[limits] = _run(self.family.at(limits))
        return self.measured[limits]


def _points(full: int, top: int) -> tuple[int, int, int]:
    """Returns three evenly spaced sizes that end in `top`, apart by steps of STEP if they fit."""
    apart = max(STEP, top // 8 // BLOCK * BLOCK)
    while top - 2 * apart < 1:
        apart //= 2
    return top - 2 * apart, top - apart, top


def _with(limits: Limits, changed: Mapping[int, int]) -> Limits:
    return tuple(changed.get(i, n) for i, n in enumerate(limits))


def _extrapolated(sizes: Sequence[int], values: Sequence[Fraction], at: int) -> Fraction:
    """Returns the value at `at` of the constant, line or parabola through the three values."""
    a, b, c = values
    apart = sizes[1] - sizes[0]
    steps = Fraction(at - sizes[2], apart)
    growth, bend = c - b, (c - b) - (b - a)
    if c <= a:
        return max(values)  # does not grow with the size: the kernel's choices decide
    if abs(bend) <= CURVED * abs(growth):
        return c + (c - a) / 2 * steps
    return c + growth * steps + bend * steps * (steps + 1) / 2


def _grows_in_steps(sizes: Sequence[int], values: Sequence[Fraction]) -> bool:
    """Returns whether three values grow with the size, but neither on a line nor on a parabola.

    So does the scratch space of a kernel whose blocks depend on the size.
    """
    a, b, c = values
    apart = sizes[1] - sizes[0]
    growth, bend = c - b, (c - b) - (b - a)
    most = ROUNDED * Fraction(2 * apart, 2 * sizes[2] - apart)  # what n² bends
    return c > a and abs(bend) > max(most, CURVED) * abs(growth)


def _on_a_line(near: tuple[int, Fraction], far: tuple[int, Fraction], at: int) -> Fraction:
    """Returns the value at `at` of the line through two points (size, value).

    Returns the larger of the two values if the line does not rise.
    """
    (n, value), (m, more) = near, far
    if more <= value or n == m:
        return max(value, more)
    return more + (more - value) / (m - n) * (at - m)


def _run(call: Call) -> int:
    """Returns the scratch space of a small call, in bytes. Raises what the operator raises."""
    peak, needed = _run_on_zeros(call)
    return max(0, peak - needed)


def _measure(call: Call, needed: int) -> int:
    """Returns the scratch space of a call at full size, in bytes; 0 if the op rejects zeros."""
    try:
        peak, _ = _run_on_zeros(call)
    except Exception as error:
        log.debug("%s cannot be measured on zeros: %r", call.target, error)
        return 0
    return max(0, peak - needed)


def _run_on_zeros(call: Call) -> tuple[int, int]:
    """Runs a call. Returns the peak of the allocated bytes, and the bytes of the results."""
    made = call.made(_zeros)
    peak, results = measured_peak(lambda: call.target(*made.args, **made.kwargs))
    found = torch.utils._pytree.tree_leaves(results)
    return peak, sum(t.nbytes for t in found if isinstance(t, torch.Tensor))


def _zeros(x: Operand) -> torch.Tensor:
    """Returns zeros in memory that the system gives only when somebody writes to it."""
    size = max(x.nbytes, x.dtype.itemsize)
    memory = np.zeros(size + CPU.alignment, np.uint8)
    first = -memory.ctypes.data % CPU.alignment
    flat = torch.from_numpy(memory[first : first + size])
    return flat.view(x.dtype).as_strided(x.shape, x.stride)
