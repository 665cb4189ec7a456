"""Defines ops that load a tensor that stays in a tier, and write it back. runtime/ has what runs.

    stored                                               a ticket for a tensor in the tier
    back = roam::load_start(stored, size, stride, dtype)
    x    = roam::load_wait(back, stored)                 the same memory as `back`
    ...  an op changes x
    roam::store_start(x, stored)                         x must not change before the wait
    roam::store_wait(x, stored)                          the tier has the new value

The memory of `back` holds nothing before the wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

library = torch.library.Library("roam", "FRAGMENT")
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


def _back(stored: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


def _out(*_: object, out: Tensor) -> Tensor:
    return out


def _same(target: Tensor, stored: Tensor) -> Tensor:
    return target.view_as(target)


def _nothing(*_: object) -> None:
    return None


for _name, _fake in (
    ("load_start", _back),
    ("load_start.out", _out),
    ("load_wait", _same),
    ("store_start", _nothing),
    ("store_wait", _nothing),
):
    torch.library.register_fake(f"roam::{_name}", _fake, lib=library)
LOAD_START = torch.ops.roam.load_start.default
LOAD_START_OUT = torch.ops.roam.load_start.out
LOAD_WAIT = torch.ops.roam.load_wait.default
STORE_START = torch.ops.roam.store_start.default
STORE_WAIT = torch.ops.roam.store_wait.default
LOADS = frozenset({LOAD_START, LOAD_WAIT})
STORES = frozenset({STORE_START, STORE_WAIT})
