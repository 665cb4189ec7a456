"""What the tests of tiers share: tensors that go there and come back, and a look at a tier."""

from __future__ import annotations

import torch
from torch import Tensor

from roam.runtime.file_tier import FileTier
from roam.runtime.regions import AddressSpace, Region
from roam.runtime.tier_file import whole_pages
from roam.runtime.transfers import Slot, Transfer


def some(nbytes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)


def send(tier: FileTier, tensor: Tensor, offset: int = 0, region: Region | None = None) -> Slot:
    """Writes a tensor and waits for it."""
    region = region or tier.open(offset + whole_pages(tensor.nbytes))
    slot = tier.start_write(region, tensor, offset, f"t{offset}")
    tier.wait_written(slot, tensor)
    return slot


def fetch(tier: FileTier, slot: Slot, like: Tensor) -> Tensor:
    """Reads a tensor back and waits for it."""
    target = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    target.untyped_storage().fill_(0xAA)
    tier.start_read(slot, target)
    tier.wait_read(slot, target)
    return target


def open_regions(tier: FileTier) -> list[int]:
    """Returns the numbers of the regions that are not free."""
    return sorted(r.number for r in space_of(tier)._regions)


def space_of(tier: FileTier) -> AddressSpace:
    """Returns the regions of a tier that has a file."""
    assert tier._space is not None
    return tier._space


def write_of(slot: Slot) -> Transfer:
    """Returns the transfer to the file, which has been started."""
    assert slot.written is not None
    return slot.written
