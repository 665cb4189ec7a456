"""Lowers `roam::add_mm(acc, a, b)`, which adds a matrix product to an accumulator.

    nothing reads acc, or a view of it, later         extern_kernels.addmm(acc, a, b, out=acc)
    acc is read later, or is an input of the graph,   Inductor's own lowering of aten.addmm
    or elements of acc share memory (expanded)

Inductor's pass `reinplace` decides between the two for each op in its table of ops that have a form
that works in place. Importing this module adds the op to that table.
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
    """Returns whether all elements of the accumulator lie apart, unlike in an expanded tensor."""
    acc = call.args[0]
    return isinstance(acc, fx.Node) and has_distinct_elements(value(acc))


inplaceable_ops[add_mm.OP] = InplaceableOp(add_mm.IN_PLACE, 0, extra_check=_is_apart)


class AddMm(ir.ExternKernel):
    """A call of addmm that writes over its first input. It has no buffer of its own."""

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
        factors = ["1.0", "1.0"] if V.graph.cpp_wrapper else []  # C++ has no default values
        device = self.get_device_or_error().type
        wrapper._generate_extern_kernel_out_helper(
            self.get_kernel_name(), inputs[0], None, [*inputs, *factors], device
        )


@register_lowering(add_mm.IN_PLACE, type_promotion_kind=None)
def _in_place(acc: Any, a: Any, b: Any) -> Any:
    # Inductor may have planned to compute acc where it is read, without memory. Realizing gives it
    # memory, in a copy; the product is added to the copy, which is then the result.
    changed = ir.ExternKernel.realize_input(acc)
    factors = (ir.ExternKernel.require_stride1(ir.ExternKernel.realize_input(x)) for x in (a, b))
    AddMm(changed, *factors)
    return ir.TensorBox(changed)


@register_lowering(add_mm.OP, type_promotion_kind=None)
def _into_a_new_buffer(acc: Any, a: Any, b: Any) -> Any:
    return lowerings[aten.addmm.default](acc, a, b)
