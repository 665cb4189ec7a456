"""What an op does, by its call alone: the arithmetic of its products, and the bytes that it moves.

A product's operations come from PyTorch's own flop counter. Of every other op only the memory
traffic counts, as if each element of an operand were read once: an estimate that is too low for
functions that take long to compute (softmax, GELU), and for operands that are read several times.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from roam.capture.op_calls import Call, Operand
from roam.capture.symbolic_sizes import Numbers
from roam.core.machine import Bytes
from roam.passes.gradient_release import Release

log = logging.getLogger("roam")
aten = torch.ops.aten

SAME_FORMULA: dict[Any, Any] = {  # ops of the CPU that PyTorch's flop counter does not know
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward
    ),
}
INDEXED = frozenset(  # ops that read of their largest operand only what the result holds
    {
        aten.embedding.default,
        aten.gather.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten._unsafe_index.Tensor,
    }
)


@dataclass(frozen=True)
class OpWork:
    """What an op does, as far as an estimate goes by it.

    Attributes:
        device: the type of the device that it runs on.
        nbytes: that it reads and writes.
        flops: floating-point operations of its matrix products.
        dtype: of those products.
    """

    device: str
    nbytes: Bytes
    flops: float = 0.0
    dtype: torch.dtype = torch.float32

    @staticmethod
    def of(call: Call) -> OpWork:
        everything = [*call.operands, *call.results]
        computed = (x.dtype for x in everything if x.dtype.is_floating_point)
        return OpWork(
            everything[0].device.type if everything else "cpu",
            _traffic(call),
            _flops(call),
            next(computed, torch.float32),
        )


def fold_work(release: Release, numbers: Numbers) -> OpWork:
    """A fold reads the gradient, and reads and writes the state and perhaps the parameter.

    The fold of a block of rows does so for its share of the rows.
    """
    parameter = release.parameter
    size = int(numbers(parameter.numel())) * parameter.element_size()  # the gradient's, too
    state = sum(nbytes for _, nbytes in release.state)
    state += sum(stored.nbytes for stored in release.stored)
    moved = size + 2 * state + 2 * size * release.writes_parameter
    if release.in_block and release.by_rows is not None:
        moved = moved * release.by_rows.rows // len(parameter)
    return OpWork(parameter.device.type, moved)


def _flops(call: Call) -> float:
    """Floating-point operations of a call's matrix products, 0 if it has none or is not known."""
    if not isinstance(call.target, torch._ops.OpOverload):
        return 0.0
    packet = call.target.overloadpacket
    formula = flop_registry.get(SAME_FORMULA.get(packet, packet))
    if formula is None:
        return 0.0
    args, kwargs = _shapes(call.args), {k: _shapes(v) for k, v in call.kwargs.items()}
    try:
        return float(formula(*args, **kwargs, out_val=_results(call)))
    except Exception as error:  # a formula of PyTorch's that does not know this form of the op
        log.debug("the operations of %s are not known: %r", call.target, error)
        return 0.0


def _traffic(call: Call) -> int:
    """Bytes that a call reads and writes, if it reads every element of its operands once."""
    written = sum(map(_touched, call.results))
    read = [_touched(x) for x in dict.fromkeys(call.operands)]
    if call.target in INDEXED and read:
        largest = max(read)
        return sum(read) - largest + min(largest, written) + written
    return sum(read) + written


def _touched(x: Operand) -> int:
    """Bytes of the elements: an expanded operand has few, and a slice does not reach its gaps."""
    return min(x.nbytes, prod(x.shape) * x.dtype.itemsize)


def _shapes(arg: Any) -> Any:
    if isinstance(arg, Operand):
        return list(arg.shape)
    if isinstance(arg, tuple):
        return [_shapes(a) for a in arg]
    return arg


def _results(call: Call) -> Any:
    """The shapes of the results in their places: a backward of a convolution may lack some."""
    shapes = [list(x.shape) for x in call.results]
    if call.target is aten.convolution_backward.default:
        given = iter(shapes)
        return [next(given) if wanted else None for wanted in call.args[-1]]
    return shapes[0] if len(shapes) == 1 else shapes
