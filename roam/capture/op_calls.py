"""Describes a call of an operator without its data, and makes the same call at smaller sizes.

    softmax(float32[32768, 50257], dim 1)    as in the graph: 6 GiB
    softmax(float32[   64,   113], dim 1)    sizes lowered, equal sizes stay equal: 28 KiB

Sizes that an operator relates (the inner sizes of a matrix product; an image and its convolved
image) must stay related. A `Family` is one guess at the relations. If a call at lowered sizes
raises, the next guess is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import fx

from roam.capture.symbolic_sizes import Numbers
from roam.passes.geometry import storage_key, tensors

SMALL = 16  # sizes up to this are never lowered: channels, kernels, heads
NO_SIZE = 2**31  # larger numbers are not sizes, but the end of an open slice
LEAST = 8  # the smallest size that lowering gives
OPAQUE = frozenset(  # arguments that a forward kernel wrote, or that stand for room in a tier
    {"workspace", "reserve", "tier", "region", "ticket", "written"}
)
STEP = 16  # a lowered size keeps its remainder modulo this, so that vectors end the same way


def may_run_alone(target: torch._ops.OpOverload) -> bool:
    """Returns whether an operator may be called with arbitrary values.

    Not if it takes the workspace of a forward kernel, since other values in it crash the process,
    and not if it moves a tensor to a tier or back.
    """
    return OPAQUE.isdisjoint(a.name for a in target._schema.arguments)


@dataclass(frozen=True)
class Operand:
    """A tensor without its data.

    memory: a number for the storage: operands with equal numbers share it.
    """

    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    memory: int = -1

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the last."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize

    @property
    def order(self) -> tuple[int, ...]:
        """The dims with more than one element, from the outermost in memory to the innermost."""
        dims = [d for d, n in enumerate(self.shape) if n > 1]
        return tuple(sorted(dims, key=lambda d: -self.stride[d]))

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill their memory without gaps or overlaps."""
        return self.stride_by(self.order) == tuple(
            s if n > 1 else 1 for n, s in zip(self.shape, self.stride, strict=True)
        )

    def stride_by(self, order: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the strides of a dense tensor of this shape with its dims in that order."""
        found, step = [1] * len(self.shape), 1
        for d in reversed(order):
            found[d], step = step, step * self.shape[d]
        return tuple(found)

    def resized(self, size: Callable[[int], int]) -> Operand:
        """Returns the operand with other sizes, but the same gaps, overlaps and order of dims."""
        shape = tuple(map(size, self.shape))
        if shape == self.shape:
            return self
        stride = list(self.stride)
        before = after = 1  # the next stride without a gap or an overlap, at old and new sizes
        for d in sorted(range(len(shape)), key=lambda d: (self.stride[d], self.shape[d])):
            if self.stride[d] >= before:
                stride[d] = after * -(-self.stride[d] // before)
                before, after = self.stride[d] * self.shape[d], stride[d] * shape[d]
        return Operand(self.dtype, self.device, shape, tuple(stride), self.memory)


@dataclass(frozen=True, eq=False)
class Call:
    """An operator with its arguments, Operands for tensors, and its results by the fake values."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Operand, ...]

    @staticmethod
    def of(node: fx.Node, numbers: Numbers) -> Call:
        """Returns the call that a node makes. Raises UnplannableError if data decides a size."""
        memory: dict[int, int] = {}

        def operand(fake: torch.Tensor) -> Operand:
            shared = memory.setdefault(storage_key(fake), len(memory))
            sizes = numbers.shape(fake.shape), numbers.shape(fake.stride())
            return Operand(fake.dtype, fake.device, *sizes, shared)

        def given(arg: Any) -> Any:
            if isinstance(arg, fx.Node):
                return given(arg.meta.get("val"))
            if isinstance(arg, torch.Tensor):
                return operand(arg)
            if isinstance(arg, (list, tuple)):
                return tuple(map(given, arg))
            return numbers(arg)

        args, kwargs = given(node.args), {k: given(v) for k, v in node.kwargs.items()}
        return Call(node.target, args, kwargs, tuple(map(operand, tensors(node))))

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """A hashable key, equal for equal calls. 1, 1.0 and True are different arguments."""
        return self.target, _key(self.args), _key(self.kwargs), self.results

    @property
    def operands(self) -> Iterator[Operand]:
        return (x for x in _leaves((self.args, self.kwargs)) if isinstance(x, Operand))

    @property
    def nbytes(self) -> int:
        """Bytes of the operands and the results."""
        return sum(x.nbytes for x in (*dict.fromkeys(self.operands), *self.results))

    def resized(self, size: Callable[[int], int]) -> Call:
        """Returns the same call with other sizes. Integer arguments change like sizes."""

        def given(arg: Any) -> Any:
            if isinstance(arg, Operand):
                return arg.resized(size)
            if isinstance(arg, tuple):
                return tuple(map(given, arg))
            if isinstance(arg, dict):
                return {k: given(v) for k, v in arg.items()}
            return size(arg) if is_size(arg) else arg

        results = tuple(r.resized(size) for r in self.results)
        return Call(self.target, given(self.args), given(self.kwargs), results)

    def made(self, make: Callable[[Operand], torch.Tensor]) -> Made:
        """Returns the arguments with real tensors: one tensor for each distinct operand."""
        found: dict[Operand, torch.Tensor] = {}

        def given(arg: Any) -> Any:
            if isinstance(arg, Operand):
                if arg not in found:
                    found[arg] = make(arg)
                return found[arg]
            if isinstance(arg, tuple):
                return [given(a) for a in arg]
            return arg

        args, kwargs = given(self.args), {k: given(v) for k, v in self.kwargs.items()}
        return Made(args, kwargs, found)


@dataclass
class Made:
    """Real arguments, and the tensor behind every operand."""

    args: list[Any]
    kwargs: dict[str, Any]
    tensors: dict[Operand, torch.Tensor]


def is_size(arg: Any) -> bool:
    """Returns whether an argument may be a size that can be lowered."""
    return isinstance(arg, int) and not isinstance(arg, bool) and SMALL < arg < NO_SIZE


def _key(arg: Any) -> Any:
    if isinstance(arg, tuple):
        return tuple(map(_key, arg))
    if isinstance(arg, dict):
        return tuple((k, _key(v)) for k, v in arg.items())
    return arg if isinstance(arg, Operand) else (type(arg), repr(arg))


def _leaves(arg: Any) -> Iterator[Any]:
    if isinstance(arg, (tuple, dict)):
        for part in arg.values() if isinstance(arg, dict) else arg:
            yield from _leaves(part)
    else:
        yield arg


Groups = tuple[tuple[int, ...], ...]  # groups of sizes that change together, each ascending
Limits = tuple[int, ...]  # the largest value of the smallest size of each group


@dataclass(frozen=True)
class Family:
    """One call at many sizes, by one guess at which sizes are related.

    Attributes:
        call: at full size.
        groups: the sizes that may be lowered, related sizes in one group.
        kept: integer arguments that are not sizes, and stay.
        products: integer arguments that are products of sizes, with these sizes: group norm takes
            the number of pixels of an image.
    """

    call: Call
    groups: Groups
    kept: frozenset[int] = frozenset()
    products: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def full(self) -> Limits:
        return tuple(group[0] for group in self.groups)

    def at(self, limits: Limits) -> Call:
        """Returns the call with its sizes lowered to these limits."""
        lowered: dict[int, int] = {}
        for (first, *rest), limit in zip(self.groups, limits, strict=True):
            by = first - min(first, limit)
            for n in (first, *rest):
                lowered[n] = n - by * max(1, round(n / first))
        for number, parts in self.products.items():
            lowered[number] = prod(lowered.get(n, n) for n in parts)
        return self.call.resized(lambda n: lowered.get(n, n))

    def within(self, nbytes: int) -> Limits | None:
        """Returns the largest limits, from one common limit, whose call takes at most `nbytes`.

        Returns None if even the smallest call takes more.
        """
        if self.call.nbytes <= nbytes:
            return self.full
        best: Limits | None = None
        low, high = 1, max(self.full, default=0) // STEP
        while low <= high:
            middle = (low + high) // 2
            limits = tuple(congruent(n, middle * STEP) for n in self.full)
            if self.at(limits).nbytes <= nbytes:
                best, low = limits, middle + 1
            else:
                high = middle - 1
        return best


def congruent(n: int, limit: int) -> int:
    """Returns the largest size up to `limit`, a multiple of STEP, with n's remainder modulo STEP.

    Returns one STEP more if that would be less than LEAST.
    """
    if n <= limit:
        return n
    found = limit - (-n) % STEP
    return found if found >= LEAST else found + STEP


def families(call: Call) -> Iterator[Family]:
    """Yields guesses at which sizes are related, the most general first.

    1. Every size changes by itself, integer arguments too.
    2. Every size changes by itself, and integer arguments stay.
    3. The pixel sizes of images (tensors of rank 3 and more) change together, as those of a
       convolution's input and result do.
    """
    everything = (*dict.fromkeys(call.operands), *call.results)
    sizes = {n for x in everything for n in x.shape if n > SMALL}
    numbers = {n for n in _leaves((call.args, call.kwargs)) if is_size(n)} - sizes
    products = {n: found for n in numbers if (found := _product(n, everything))}
    free = numbers - products.keys()
    alone = tuple((n,) for n in sorted(sizes))
    if free:
        yield Family(call, tuple((n,) for n in sorted(sizes | free)), frozenset(), products)
    yield Family(call, alone, frozenset(free), products)
    together = _by_place(everything, sizes)
    if together != alone:
        yield Family(call, together, frozenset(free), products)


def _product(number: int, operands: tuple[Operand, ...]) -> tuple[int, ...]:
    """Returns neighbouring sizes of an operand whose product is `number`, () if there are none."""
    for shape in (x.shape for x in operands):
        for i in range(len(shape)):
            for j, found in enumerate(accumulate(shape[i:], lambda a, b: a * b), i + 1):
                if found == number and j - i > 1:
                    return shape[i:j]
    return ()


def _by_place(operands: tuple[Operand, ...], sizes: set[int]) -> Groups:
    """Groups the pixel sizes of all images (dims from the third on) together, others alone."""
    group = {n: {n} for n in sizes}
    images = [x.shape for x in operands if len(x.shape) >= 3]
    pixels = sorted({n for shape in images for n in shape[2:] if n in sizes})
    for n in pixels:
        group[pixels[0]] |= group[n]
    for n in pixels:
        group[n] = group[pixels[0]]
    return tuple(sorted({tuple(sorted(g)) for g in group.values()}))
