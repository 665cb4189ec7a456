"""Defines the ops that move tensors to a tier and back. What runs is in runtime/.

Of a tensor that a forward saves (runtime/transfer_ops.py):

    region  = roam::open_slots(tier, nbytes)             room in the tier for one forward
    ticket  = roam::write_start(h, region, offset, name) h must not change before the wait
    written = roam::write_wait(h, ticket)
    back    = roam::read_start(written, size, stride, dtype)
    h       = roam::read_wait(back, written)             the same memory as `back`

Of a tensor that stays in a tier between steps (runtime/stored_ops.py), `stored` being its ticket:

    back    = roam::load_start(stored, size, stride, dtype)
    x       = roam::load_wait(back, stored)              the same memory as `back`
              roam::store_start(x, stored)               x must not change before the wait
              roam::store_wait(x, stored)                the tier has the new value

Regions and tickets are tensors of one int64 in host memory. Each op needs what the one before it
gives or changes, so that a graph of them has no hidden order. The memory of `back` holds nothing
before the wait.
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
library.define(
    "load_start(Tensor stored, SymInt[] size, SymInt[] stride, ScalarType dtype) -> Tensor"
)
library.define(
    "load_start.out(Tensor stored, SymInt[] size, SymInt[] stride, ScalarType dtype, *, "
    "Tensor(a!) out) -> Tensor(a!)"
)
library.define("load_wait(Tensor(a) target, Tensor stored) -> Tensor(a)")
library.define("store_start(Tensor source, Tensor(a!) stored) -> ()")
library.define("store_wait(Tensor source, Tensor(a!) stored) -> ()")


def _ticket(*_: object) -> Tensor:
    return torch.empty(1, dtype=torch.int64)


def _back(ticket: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


def _out(*_: object, out: Tensor) -> Tensor:
    return out


def _same(target: Tensor, ticket: Tensor) -> Tensor:
    return target.view_as(target)


def _nothing(*_: object) -> None:
    return None


for _name, _fake in (
    ("open_slots", _ticket),
    ("write_start", _ticket),
    ("write_wait", _ticket),
    ("read_start", _back),
    ("read_start.out", _out),
    ("read_wait", _same),
    ("load_start", _back),
    ("load_start.out", _out),
    ("load_wait", _same),
    ("store_start", _nothing),
    ("store_wait", _nothing),
):
    torch.library.register_fake(f"roam::{_name}", _fake, lib=library)
OPEN_SLOTS = torch.ops.roam.open_slots.default
WRITE_START = torch.ops.roam.write_start.default
WRITE_WAIT = torch.ops.roam.write_wait.default
READ_START = torch.ops.roam.read_start.default
READ_START_OUT = torch.ops.roam.read_start.out
READ_WAIT = torch.ops.roam.read_wait.default
LOAD_START = torch.ops.roam.load_start.default
LOAD_START_OUT = torch.ops.roam.load_start.out
LOAD_WAIT = torch.ops.roam.load_wait.default
STORE_START = torch.ops.roam.store_start.default
STORE_WAIT = torch.ops.roam.store_wait.default
OUT = frozenset({OPEN_SLOTS, WRITE_START, WRITE_WAIT, STORE_START, STORE_WAIT})  # to the tier
BACK = frozenset({READ_START, READ_WAIT, LOAD_START, LOAD_WAIT})
TRANSFERS = OUT | BACK
