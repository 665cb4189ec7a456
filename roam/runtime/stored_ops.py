"""Runs the ops of passes/stored_ops.py, which load tensors that stay in a tier, and store them.

A ticket is a tensor of one number, whose memory carries the StoredTensor as an attribute. A copy of
a ticket is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roam.core.errors import TransferError
from roam.passes.stored_ops import (
    LOAD_START,
    LOAD_START_OUT,
    LOAD_WAIT,
    STORE_START,
    STORE_WAIT,
    library,
)
from roam.runtime.stored_tensor import StoredTensor


def ticket(stored: StoredTensor) -> Tensor:
    """Returns what ops know a stored tensor by."""
    found = torch.zeros(1, dtype=torch.int64)
    found.untyped_storage().roam_stored = stored  # type: ignore[attr-defined]
    return found


def _load_start(
    stored: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return _load_into(
        stored, size, stride, dtype, out=torch.empty_strided(size, stride, dtype=dtype)
    )


def _load_into(
    stored: Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, *, out: Tensor
) -> Tensor:
    _look_up(stored).start_read(out)
    return out


def _load_wait(target: Tensor, stored: Tensor) -> Tensor:
    _look_up(stored).wait_read(target)
    return target


def _store_start(source: Tensor, stored: Tensor) -> None:
    _look_up(stored).start_write(source)


def _store_wait(source: Tensor, stored: Tensor) -> None:
    _look_up(stored).wait_written(source)


def _look_up(ticket: Tensor) -> StoredTensor:
    found: Any = getattr(ticket.untyped_storage(), "roam_stored", None)
    if not isinstance(found, StoredTensor):
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
