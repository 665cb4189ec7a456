"""Runs the ops of passes/transfer_ops.py that load tensors that stay in a tier, and store them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roam.core.errors import TransferError
from roam.passes.transfer_ops import (
    LOAD_START,
    LOAD_START_OUT,
    LOAD_WAIT,
    STORE_START,
    STORE_WAIT,
    library,
)
from roam.runtime.stored_tensor import StoredTensor
from roam.runtime.tickets import look_up


def _load_start(
    stored: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return _load_into(
        stored, size, stride, dtype, out=torch.empty_strided(size, stride, dtype=dtype)
    )


def _load_into(
    stored: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, *, out: Tensor
) -> Tensor:
    _stored(stored).start_read(out)
    return out


def _load_wait(target: Tensor, stored: Tensor) -> Tensor:
    _stored(stored).wait_read(target)
    return target


def _store_start(source: Tensor, stored: Tensor) -> None:
    _stored(stored).start_write(source)


def _store_wait(source: Tensor, stored: Tensor) -> None:
    _stored(stored).wait_written(source)


def _stored(ticket: Tensor) -> StoredTensor:
    found = look_up(ticket, StoredTensor)
    if found is None:
        raise TransferError("a ticket of a stored tensor was copied, and a copy stands for nothing")
    return found


for _op, _run in (
    (LOAD_START, _load_start),
    (LOAD_START_OUT, _load_into),
    (LOAD_WAIT, _load_wait),
    (STORE_START, _store_start),
    (STORE_WAIT, _store_wait),
):
    library.impl(_op, _run, "CompositeExplicitAutograd")
