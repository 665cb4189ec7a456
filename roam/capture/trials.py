"""Tries each distinct call of an operator once, on small random tensors, and notes what is true.

    layout of the results    whether it is the one that the graph's fake values have
    its out= form            whether it writes the op's results into memory of that layout
    ... over an operand      the same if `out` is one of the operands

PyTorch states the first and offers the second, and both can be wrong. For a transposed gradient,
the kernel of `_log_softmax_backward_data` returns contiguous memory although its fake value is
transposed, and it writes wrong values if its `out` is transposed. The process remembers the result
of each trial.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

from roam.capture.op_calls import Call, Made, Operand, families, may_run_alone
from roam.capture.symbolic_sizes import Numbers
from roam.core import machine
from roam.core.errors import UnplannableError
from roam.passes.annotations.out_variants import OutVariant, find, is_provable
from roam.passes.annotations.real_layouts import may_lie_otherwise
from roam.passes.geometry import value
from roam.runtime.blocks import carve
from roam.runtime.isolation import aside, settings

log = logging.getLogger("roam")
Order = tuple[int, ...]

BYTES = 2**18  # of operands and results: some vectors and blocks of each dim, in microseconds
MOST = 2**22  # bytes that a call may take if its sizes cannot be lowered to BYTES
WHOLES = 2, 1  # integers are below this, to be valid indices: 1 for dims of one element
GUARD = 256  # bytes around a result that the trial must not write to
UNTOUCHED = 0xA5  # the byte that guards are filled with
_known: dict[Any, Evidence | None] = {}


@dataclass(frozen=True)
class Evidence:
    """What the trial of one call showed.

    Attributes:
        orders: the real layout of each result, as its dims from the outermost in memory to the
            innermost; None for a result with gaps or overlaps.
        writes: whether the out= form writes the op's results into memory of the stated layout.
        over: positions of the operands, of the result's layout, that it may write the result over.
    """

    orders: tuple[Order | None, ...]
    writes: bool = False
    over: frozenset[int] = frozenset()


def layouts(node: fx.Node) -> tuple[Order | None, ...] | None:
    """Returns the real layout of each result of a node, None if the op cannot be tried."""
    evidence = _evidence(node)
    return None if evidence is None else evidence.orders


def writes_into(node: fx.Node, variant: OutVariant) -> bool:
    """Returns whether the op's out= form writes its results into memory of the stated layout."""
    evidence = _evidence(node)
    return is_provable(node, variant) if evidence is None else evidence.writes


def writes_over(node: fx.Node, variant: OutVariant, source: fx.Node) -> bool:
    """Returns whether the op's out= form may write its result over the operand `source`."""
    evidence = _evidence(node)
    if evidence is None:
        return is_provable(node, variant)
    return next(i for i, n in enumerate(_nodes(node)) if n is source) in evidence.over


@dataclass(frozen=True)
class Tried:
    """A pass that tries all calls that later passes will ask about.

    One visit to the other thread for all calls is faster than one for each. Returns how many calls
    were new.
    """

    name: str = "tried"

    def __call__(self, module: fx.GraphModule) -> int:
        asked = (n for n in module.graph.nodes if find(n) is not None or may_lie_otherwise(n))
        keyed = (_keyed(n) for n in asked)
        new = {key: (call, v) for key, call, v in filter(None, keyed) if key not in _known}

        def work() -> dict[Any, Evidence | None]:
            return {key: _first(*given) for key, given in new.items()}

        if new:
            _known.update(aside(work))
        return len(new)


def _nodes(node: fx.Node) -> list[fx.Node]:
    """Returns the arguments that are tensors, in the order of `Call.operands`."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return [n for n in found if isinstance(value(n), Tensor)]


def _call(node: fx.Node) -> Call | None:
    if isinstance(node.target, torch._ops.OpOverload) and not may_run_alone(node.target):
        return None
    try:
        call = Call.of(node, Numbers())
    except UnplannableError:
        return None  # data decides a size
    devices = {x.device.type for x in (*call.operands, *call.results)}
    return call if "meta" not in devices else None


def _evidence(node: fx.Node) -> Evidence | None:
    """Returns the evidence of the first trial that raised no error, None if all raised."""
    keyed = _keyed(node)
    if keyed is None:
        return None
    key, call, variant = keyed
    if key not in _known:
        _known[key] = aside(lambda: _first(call, variant))
    return _known[key]


def _keyed(node: fx.Node) -> tuple[Any, Call, OutVariant | None] | None:
    call = _call(node)
    if call is None:
        return None
    variant = find(node)
    return (call.key, variant, settings()), call, variant


def _first(call: Call, variant: OutVariant | None) -> Evidence | None:
    for small, wholes in product(_smaller(call), WHOLES):
        try:
            return _try(small, variant, wholes)
        except Exception as error:
            log.debug("%s cannot be tried on %s: %r", call.target, list(small.operands), error)
    return None


def _smaller(call: Call) -> Iterator[Call]:
    """Yields the call with its sizes lowered, by each guess, and last at full size if small."""
    if call.nbytes <= BYTES:
        yield call
        return
    for family in families(call):
        limits = family.within(BYTES) or family.within(MOST)
        if limits is not None:
            yield family.at(limits)
    if call.nbytes <= MOST:
        yield call


def _try(call: Call, variant: OutVariant | None, wholes: int = 2) -> Evidence:
    wanted = _run(call, call.made(_Fill(wholes)))
    real, stated = [_operand(t) for t in wanted], call.results
    if len(real) != len(stated):
        raise ValueError(f"{len(real)} results where {len(stated)} are stated")
    orders = tuple(r.order if r.is_dense else None for r in real)
    told = tuple(s.order for s in stated)
    if orders != told:
        # Fake tensors at these sizes have to state what the graph states, which then is false, or
        # the real layout: then the graph's statement was about operands of other strides.
        if tuple(s.order for s in _stated(call)) not in (told, orders):
            raise ValueError("how the results lie depends on the sizes")
        return Evidence(orders)
    if variant is None or not _writes(call, variant, wanted, wholes):
        return Evidence(orders)
    alike = [i for i, x in enumerate(call.operands) if _lies_like(x, real[0])]
    over = (i for i in alike if _writes(call, variant, wanted, wholes, i))
    return Evidence(orders, True, frozenset(over))


def _lies_like(x: Operand, result: Operand) -> bool:
    return (x.dtype, x.shape, x.order) == (result.dtype, result.shape, result.order) and x.is_dense


def _stated(call: Call) -> tuple[Operand, ...]:
    """Returns the results of the call on fake tensors."""
    with FakeTensorMode():
        made = call.made(_empty)
        return tuple(_operand(t) for t in _tensors(call.target(*made.args, **made.kwargs)))


def _writes(
    call: Call,
    variant: OutVariant,
    wanted: Sequence[Tensor],
    wholes: int,
    over: int | None = None,
) -> bool:
    """Returns whether an out= form writes the wanted results, and nothing else, into given memory.

    Args:
        call: the call at small sizes.
        variant: the out= form.
        wanted: the results that the op itself returned.
        wholes: the bound of random integers.
        over: the position of the operand that serves as `out`; None: new memory.
    """
    made = call.made(_Fill(wholes))
    arena = _Arena(wanted, call.results)
    outs = list(arena.outs)
    if over is not None:
        outs[0] = made.tensors[list(call.operands)[over]]
    places = [_place(t) for t in outs]
    given = dict(zip(variant.names, outs, strict=True))
    try:
        _seeded(call, made)
        variant.target(*made.args, **made.kwargs, **given)
    except Exception as error:
        log.debug("%s refuses memory: %r", variant.target, error)
        return False
    if places != [_place(t) for t in outs] or not arena.is_untouched():
        return False
    return all(_same(a, b) for a, b in zip(outs, wanted, strict=True))


def _run(call: Call, made: Made) -> list[Tensor]:
    _seeded(call, made)
    return _tensors(call.target(*made.args, **made.kwargs))


def _draws(call: Call) -> bool:
    return torch.Tag.nondeterministic_seeded in call.target.tags


def _seeded(call: Call, made: Made) -> None:
    """Makes a random operator draw from a generator with seed 0."""
    if not _draws(call):
        return
    device = call.results[0].device
    if any(a.name == "generator" for a in call.target._schema.arguments):
        made.kwargs["generator"] = torch.Generator(device).manual_seed(0)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(0)  # `isolation` restores it
    else:
        raise ValueError(f"it would draw from the generator of {device}")


class _Fill:
    """Makes operands of random numbers, the same for the same sequence of operands."""

    def __init__(self, wholes: int) -> None:
        self.wholes = wholes
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Operand) -> Tensor:
        tensor = _empty(x)
        if 0 in x.stride and tensor.numel():  # expanded: several elements share one number
            kept = [slice(0, 1) if s == 0 else slice(None) for s in x.stride]
            tensor[tuple(kept)].copy_(self.numbers(x, tensor[tuple(kept)].shape))
        else:
            tensor.copy_(self.numbers(x, tensor.shape))
        return tensor

    def numbers(self, x: Operand, shape: Sequence[int]) -> Tensor:
        """Returns random numbers: floats in [0, 1), valid as probabilities, or small indices."""
        if x.dtype.is_floating_point or x.dtype.is_complex:
            wide = torch.complex64 if x.dtype.is_complex else torch.float32
            return torch.rand(shape, generator=self.generator, dtype=wide).to(x.dtype)
        return torch.randint(0, self.wholes, tuple(shape), generator=self.generator).to(x.dtype)


def _empty(x: Operand) -> Tensor:
    return torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=x.device)


class _Arena:
    """A storage with results one behind the other, as in a plan's arena, and guards around them."""

    def __init__(self, wanted: Sequence[Tensor], stated: Sequence[Operand]) -> None:
        device = wanted[0].device if wanted else torch.device("cpu")
        align = machine.of(device.type).alignment
        guard = max(GUARD, align)
        starts, end = [], guard
        for t in wanted:
            starts.append(end)
            end += -(-t.numel() * t.element_size() // align) * align + guard
        size = (end,)
        self.block = torch.full(size, UNTOUCHED, dtype=torch.uint8, device=device)
        self.outs: list[Tensor] = []
        free = torch.ones(size, dtype=torch.bool, device=device)
        for t, x, at in zip(wanted, stated, starts, strict=True):
            like = Operand(t.dtype, t.device, tuple(t.shape), ())
            self.outs.append(carve(self.block, at, t.dtype, t.shape, like.stride_by(x.order)))
            free[at : at + t.numel() * t.element_size()] = False
        self.free = free

    def is_untouched(self) -> bool:
        return bool((self.block[self.free] == UNTOUCHED).all())


def _operand(tensor: Tensor) -> Operand:
    return Operand(tensor.dtype, tensor.device, tuple(tensor.shape), tuple(tensor.stride()))


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Returns where the elements of a tensor lie: strides of dims of one element do not count."""
    strides = (s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1)
    return tensor.data_ptr(), tensor.shape, tuple(strides)


def _tensors(results: Any) -> list[Tensor]:
    return [t for t in _pytree.tree_leaves(results) if isinstance(t, Tensor)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Returns whether dtypes and all numbers are equal. NaN equals NaN."""
    return a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
