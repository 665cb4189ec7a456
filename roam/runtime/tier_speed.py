"""Measures how fast a folder's disk takes bytes and gives them back, through a tier of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from roam.core.machine import MIB, Bytes, Seconds
from roam.runtime.file_tier import FileTier
from roam.runtime.regions import Region
from roam.runtime.transfers import Slot

PROBE: Bytes = 64 * MIB
TICK: Seconds = 1e-9  # a coarse clock may not move


def measure(
    folder: str | Path, nbytes: Bytes = PROBE, clock: Callable[[], Seconds] = time.perf_counter
) -> tuple[float, float]:
    """Returns the bytes a second that a tier in a folder writes, and those that it reads.

    One tensor goes there and back, alone. It goes there twice, and the second time counts: on some
    file systems the first write of a place takes longer, and a step writes the same places again
    and again.

    Args:
        folder: in which the tier is.
        nbytes: of the tensor.
        clock: tells the seconds.

    Raises:
        TierError: the folder can hold no tier, or too little.
        TransferError: the disk fails.
    """
    tier = FileTier(folder)
    try:
        region, tensor = tier.open(nbytes), torch.ones(nbytes, dtype=torch.uint8)
        _write(tier, region, tensor)
        begin = clock()
        slot = _write(tier, region, tensor)
        written = clock()
        tier.start_read(slot, tensor)
        tier.wait_read(slot, tensor)
        read = clock()
    finally:
        tier.close()
    return nbytes / max(written - begin, TICK), nbytes / max(read - written, TICK)


def _write(tier: FileTier, region: Region, tensor: Tensor) -> Slot:
    slot = tier.start_write(region, tensor, 0, "the probe of a disk")
    tier.wait_written(slot, tensor)
    return slot
