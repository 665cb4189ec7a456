"""Runs the ops of passes/transfer_ops.py, which move tensors to a tier and back.

`region`, `ticket` and `written` are tickets (see `tickets`). When the last of them is gone, so is
the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from roam.core.errors import TransferError
from roam.passes.transfer_ops import (
    OPEN_SLOTS,
    READ_START,
    READ_START_OUT,
    READ_WAIT,
    WRITE_START,
    WRITE_WAIT,
    library,
)
from roam.runtime.file_tier import FileTier, file_tier
from roam.runtime.regions import Region
from roam.runtime.tickets import issue, look_up
from roam.runtime.transfers import Slot


class _Placed(NamedTuple):
    """What a ticket stands for: a region of a tier's file, or a slot in one."""

    tier: FileTier
    place: Region | Slot


P = TypeVar("P", Region, Slot)


def _open_slots(tier: str, nbytes: int) -> Tensor:
    found = file_tier(tier)
    region = found.open(nbytes)
    return issue(_Placed(found, region), region.number)


def _write_start(source: Tensor, region: Tensor, offset: int, name: str) -> Tensor:
    tier, place = _place_of(region, Region, name, "write")
    slot = tier.start_write(place, source, offset, name)
    return issue(_Placed(tier, slot), slot.offset)


def _write_wait(source: Tensor, ticket: Tensor) -> Tensor:
    tier, slot = _place_of(ticket, Slot, "", "write")
    tier.wait_written(slot, source)
    return issue(_Placed(tier, slot), slot.offset)


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
    tier, slot = _place_of(written, Slot, "", "read")
    tier.start_read(slot, out)
    return out


def _read_wait(target: Tensor, written: Tensor) -> Tensor:
    tier, slot = _place_of(written, Slot, "", "read")
    tier.wait_read(slot, target)
    return target


def _place_of(ticket: Tensor, kind: type[P], name: str, direction: str) -> tuple[FileTier, P]:
    """Returns the tier and the place that a ticket stands for."""
    found = look_up(ticket, _Placed)
    if found is None or not isinstance(found.place, kind):
        raise TransferError(
            f"tensor {name!r} cannot be moved ({direction}): its ticket is a copy, which stands "
            "for nothing. Hooks on saved tensors must hand back the tensor itself",
            tensor=name,
            direction=direction,
        )
    return found.tier, found.place


for _op, _run in (
    (OPEN_SLOTS, _open_slots),
    (WRITE_START, _write_start),
    (WRITE_WAIT, _write_wait),
    (READ_START, _read_start),
    (READ_START_OUT, _read_into),
    (READ_WAIT, _read_wait),
):
    library.impl(_op, _run, "CompositeExplicitAutograd")
