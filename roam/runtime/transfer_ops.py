"""Defines the ops that move tensors to a tier and back, for graphs.

    region  = roam::open_slots(tier, nbytes)                    room for one pending forward
    started = roam::write_start(source, region, offset, name)
    written = roam::write_wait(source, started)                 the source may be freed from here on
    target  = roam::read_start(written, size, stride, dtype)    or `.out`, into memory that is there
    target  = roam::read_wait_(target, written)                 the target may be used from here on

`read_wait_.none` does the same and returns nothing, for compilers that take no op that returns what
it changes: torch's functionalization and Inductor's fallback kernels.

`region`, `started` and `written` are tickets: tensors of one number each, whose memory carries what
they stand for as an attribute. So a ticket lives as long as its memory, whoever holds that:
autograd, between forward and backward, or a graph that is kept. When the last ticket is gone, so is
the region. A copy of a ticket is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from roam.core.errors import TransferError
from roam.runtime.file_tier import FileTier, file_tier
from roam.runtime.regions import Region
from roam.runtime.transfers import Slot

_library = torch.library.Library("roam", "FRAGMENT")
_library.define("open_slots(str tier, SymInt nbytes) -> Tensor")
_library.define("write_start(Tensor source, Tensor region, SymInt offset, str name) -> Tensor")
_library.define("write_wait(Tensor source, Tensor ticket) -> Tensor")
_READ = "Tensor written, SymInt[] size, SymInt[] stride, ScalarType dtype"
_library.define(f"read_start({_READ}) -> Tensor")
_library.define(f"read_start.out({_READ}, *, Tensor(a!) out) -> Tensor(a!)")
_library.define("read_wait_(Tensor(a!) target, Tensor written) -> Tensor(a!)")
_library.define("read_wait_.none(Tensor(a!) target, Tensor written) -> ()")


class _Ticket(NamedTuple):
    """What a ticket stands for: a region of a tier's file, or a slot in one."""

    tier: FileTier
    place: Region | Slot


P = TypeVar("P", Region, Slot)


def _open_slots(tier: str, nbytes: int) -> Tensor:
    found = file_tier(tier)
    region = found.open(nbytes)
    return _issue(_Ticket(found, region), region.number)


def _write_start(source: Tensor, region: Tensor, offset: int, name: str) -> Tensor:
    tier, place = _look_up(region, Region, name, "write")
    slot = tier.start_write(place, source, offset, name)
    return _issue(_Ticket(tier, slot), slot.offset)


def _write_wait(source: Tensor, ticket: Tensor) -> Tensor:
    tier, slot = _look_up(ticket, Slot, "", "write")
    tier.wait_written(slot, source)
    return _issue(_Ticket(tier, slot), slot.offset)


def _read_start(
    written: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return _read_into(
        written, size, stride, dtype, out=torch.empty_strided(size, stride, dtype=dtype)
    )


def _read_into(
    written: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype,
    *,
    out: Tensor,
) -> Tensor:
    tier, slot = _look_up(written, Slot, "", "read")
    tier.start_read(slot, out)
    return out


def _read_wait(target: Tensor, written: Tensor) -> Tensor:
    tier, slot = _look_up(written, Slot, "", "read")
    tier.wait_read(slot, target)
    return target


def _read_wait_none(target: Tensor, written: Tensor) -> None:
    _read_wait(target, written)


def _issue(ticket: _Ticket, number: int) -> Tensor:
    tensor = torch.tensor([number], dtype=torch.int64)
    tensor.untyped_storage().roam_ticket = ticket  # type: ignore[attr-defined]
    return tensor


def _look_up(ticket: Tensor, kind: type[P], name: str, direction: str) -> tuple[FileTier, P]:
    """Returns the tier and the place that a ticket stands for."""
    found: Any = getattr(ticket.untyped_storage(), "roam_ticket", None)
    if not isinstance(found, _Ticket) or not isinstance(found.place, kind):
        raise TransferError(
            f"tensor {name!r} cannot be moved ({direction}): its ticket is a copy, which stands "
            "for nothing. Hooks on saved tensors must hand back the tensor itself",
            tensor=name,
            direction=direction,
        )
    return found.tier, found.place


def _fake_ticket(*_: object) -> Tensor:
    return torch.empty(1, dtype=torch.int64)


def _fake_target(
    written: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


for _name, _run in (
    ("open_slots", _open_slots),
    ("write_start", _write_start),
    ("write_wait", _write_wait),
    ("read_start", _read_start),
    ("read_start.out", _read_into),
    ("read_wait_", _read_wait),
    ("read_wait_.none", _read_wait_none),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
for _name in ("open_slots", "write_start", "write_wait"):
    torch.library.register_fake(f"roam::{_name}", _fake_ticket, lib=_library)
torch.library.register_fake("roam::read_start", _fake_target, lib=_library)
torch.library.register_fake("roam::read_start.out", lambda *_, out: out, lib=_library)
torch.library.register_fake("roam::read_wait_", lambda target, _: target, lib=_library)
torch.library.register_fake("roam::read_wait_.none", lambda *_: None, lib=_library)

OPEN_SLOTS = torch.ops.roam.open_slots.default
WRITE_START = torch.ops.roam.write_start.default
WRITE_WAIT = torch.ops.roam.write_wait.default
READ_START = torch.ops.roam.read_start.default
READ_START_OUT = torch.ops.roam.read_start.out
READ_WAIT = torch.ops.roam.read_wait_.default
READ_WAIT_NONE = torch.ops.roam.read_wait_.none
