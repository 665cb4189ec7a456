"""Defines an op that adds a matrix product to an accumulator.

    roam::add_mm(acc, a, b)     returns acc + a @ b, laid out as acc
    roam::add_mm_(acc, a, b)    adds a @ b to acc, and returns acc
    roam::add_mm.out            writes the first into `out`, which may be acc

Rewrites put the first into graphs, where ops have no side effects. A lowering runs the second in
its place if nothing reads `acc` later: then a sum of products, such as a weight's gradient, needs
one buffer.

`aten.addmm` means the same as the first. The op has a name of its own, so that no later pass takes
`acc` for a bias, which Inductor adds in a kernel of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("roam", "FRAGMENT")
_library.define("add_mm(Tensor acc, Tensor a, Tensor b) -> Tensor")
_library.define("add_mm.out(Tensor acc, Tensor a, Tensor b, *, Tensor(a!) out) -> Tensor(a!)")
_library.define("add_mm_(Tensor(a!) acc, Tensor a, Tensor b) -> Tensor(a!)")


def _add_mm(acc: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(acc, a, b, out=torch.empty_like(acc))


def _add_mm_in_place(acc: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return acc.addmm_(a, b)


def _into(acc: Tensor, a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    if out.data_ptr() == acc.data_ptr():  # addmm would copy acc onto itself
        return out.addmm_(a, b)
    return torch.addmm(acc, a, b, out=out)


def _result(acc: Tensor, a: Tensor, b: Tensor) -> Tensor:
    _check(acc, a, b)
    return torch.empty_like(acc)


def _changed(acc: Tensor, a: Tensor, b: Tensor) -> Tensor:
    _check(acc, a, b)
    return acc


def _check(acc: Tensor, a: Tensor, b: Tensor) -> None:
    torch._check(acc.dim() == a.dim() == b.dim() == 2, lambda: "add_mm takes matrices")
    torch._check(a.shape[1] == b.shape[0], lambda: "add_mm: a's columns are not b's rows")
    torch._check(acc.shape[0] == a.shape[0], lambda: "add_mm: acc and a differ in rows")
    torch._check(acc.shape[1] == b.shape[1], lambda: "add_mm: acc and b differ in columns")
    torch._check(acc.dtype == a.dtype == b.dtype, lambda: "add_mm takes one dtype")


_library.impl("add_mm", _add_mm, "CompositeExplicitAutograd")
_library.impl("add_mm.out", _into, "CompositeExplicitAutograd")
_library.impl("add_mm_", _add_mm_in_place, "CompositeExplicitAutograd")
_library.impl("add_mm", _result, "Meta")
_library.impl("add_mm_", _changed, "Meta")
OP = torch.ops.roam.add_mm.default
IN_PLACE = torch.ops.roam.add_mm_.default
