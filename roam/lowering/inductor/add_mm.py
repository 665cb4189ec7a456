"""Lowers `roam::add_mm(acc, a, b)`, which returns acc + a @ b, in one of two ways.

    written over acc     extern_kernels.addmm(acc, a, b, out=acc)
    in a new buffer      Inductor's own lowering of aten.addmm

The result gets a new buffer if one of these is true:

    - a later op reads acc, or a view of it
    - acc is an input of the graph, or a view of one, and the graph does not write the result back
      to this input
    - elements of acc share memory, as in an expanded tensor

Inductor's pass `reinplace` decides between the two. It considers the ops in Inductor's table
`inplaceable_ops`. Importing this module adds `roam::add_mm` to that table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor import ir
from torch._inductor.fx_passes.reinplace import InplaceableOp, inplaceable_ops
from torch._inductor.lowering import lowerings, register_lowering
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from roam.passes import add_mm
from roam.passes.geometry import has_distinct_elements, value

aten = torch.ops.aten


def _is_apart(call: fx.Node) -> bool:
    """Returns whether each element of the accumulator has memory of its own.

    The elements of an expanded tensor share memory.

    call: a call of `roam::add_mm`. Its first argument is the accumulator.
    """
    acc = call.args[0]
    return isinstance(acc, fx.Node) and has_distinct_elements(value(acc))


inplaceable_ops[add_mm.OP] = InplaceableOp(add_mm.IN_PLACE, 0, extra_check=_is_apart)


class AddMm(ir.ExternKernel):
    """An extern kernel that adds a @ b to its first input, in place, by a call of addmm.

    Inductor allocates no memory for this node: the result lies in the memory of the first input.
    """

    def __init__(self, acc: Any, a: Any, b: Any) -> None:
        super().__init__(
            None,
            ir.NoneLayout(device=acc.get_device()),
            self.unwrap_storage([acc, a, b]),
            python_kernel_name="extern_kernels.addmm",
            cpp_kernel_name="at::addmm_out",
            op_overload=add_mm.IN_PLACE,
        )
        V.graph.mark_buffer_mutated(self.input_name(0))
        self.name = V.graph.register_buffer(self)
        V.graph.register_operation(self)

    def should_allocate(self) -> bool:
        return False

    def get_mutation_names(self) -> list[str]:
        return [self.input_name(0)]

    def get_unbacked_symbol_defs(self) -> OrderedSet[Any]:
        return OrderedSet()

    def codegen(self, wrapper: Any) -> None:
        given: Any = self.inputs
        inputs = [each.codegen_reference() for each in given]
        factors = ["1.0", "1.0"] if V.graph.cpp_wrapper else []  # beta, alpha: no defaults in C++
        device = self.get_device_or_error().type
        wrapper._generate_extern_kernel_out_helper(
            self.get_kernel_name(), inputs[0], None, [*inputs, *factors], device
        )


@register_lowering(add_mm.IN_PLACE, type_promotion_kind=None)
def _in_place(acc: Any, a: Any, b: Any) -> Any:
    # acc may have no memory so far, because Inductor computes some values only where they are read.
    # Realizing stores acc in a buffer. It copies acc if acc is a view that no strides describe. The
    # product is added to the buffer, or to the copy, which then is the result.
    changed = ir.ExternKernel.realize_input(acc)
    factors = (ir.ExternKernel.require_stride1(ir.ExternKernel.realize_input(x)) for x in (a, b))
    AddMm(changed, *factors)
    return ir.TensorBox(changed)


@register_lowering(add_mm.OP, type_promotion_kind=None)
def _into_a_new_buffer(acc: Any, a: Any, b: Any) -> Any:
    return lowerings[aten.addmm.default](acc, a, b)
