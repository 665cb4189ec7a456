"""Defines the ops that move a tensor to a tier and back. What runs is in runtime/transfer_ops.py.

    region  = roam::open_slots(tier, nbytes)             room in the tier for one forward
    ticket  = roam::write_start(h, region, offset, name) h must not change before the wait
    written = roam::write_wait(h, ticket)
    back    = roam::read_start(written, size, stride, dtype)
    h       = roam::read_wait(back, written)             the same memory as `back`

Regions and tickets are tensors of one int64 in host memory. Each op needs what the one before it
gives, so that a graph of them has no hidden order. The memory of `back` holds nothing before the
wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

library = torch.library.Library("roam", "FRAGMENT")
library.define("open_slots(str tier, SymInt nbytes) -> Tensor")
library.define("write_start(Tensor source, Tensor region, SymInt offset, str name) -> Tensor")
library.define("write_wait(Tensor source, Tensor ticket) -> Tensor")
library.define(
    "read_start(Tensor written, SymInt[] size, SymInt[] stride, ScalarType dtype) -> Tensor"
)
library.define(
    "read_start.out(Tensor written, SymInt[] size, SymInt[] stride, ScalarType dtype, *, "
    "Tensor(a!) out) -> Tensor(a!)"
)
library.define("read_wait(Tensor(a) target, Tensor written) -> Tensor(a)")


def _ticket(*_: object) -> Tensor:
    return torch.empty(1, dtype=torch.int64)


def _back(
    written: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


def _out(*_: object, out: Tensor) -> Tensor:
    return out


def _same(target: Tensor, written: Tensor) -> Tensor:
    return target.view_as(target)


for _name in ("open_slots", "write_start", "write_wait"):
    torch.library.register_fake(f"roam::{_name}", _ticket, lib=library)
torch.library.register_fake("roam::read_start", _back, lib=library)
torch.library.register_fake("roam::read_start.out", _out, lib=library)
torch.library.register_fake("roam::read_wait", _same, lib=library)
OPEN_SLOTS = torch.ops.roam.open_slots.default
WRITE_START = torch.ops.roam.write_start.default
WRITE_WAIT = torch.ops.roam.write_wait.default
READ_START = torch.ops.roam.read_start.default
READ_START_OUT = torch.ops.roam.read_start.out
READ_WAIT = torch.ops.roam.read_wait.default
OUT = frozenset({OPEN_SLOTS, WRITE_START, WRITE_WAIT})  # run on the way to the tier
BACK = frozenset({READ_START, READ_WAIT})
TRANSFERS = OUT | BACK
