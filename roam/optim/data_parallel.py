"""Finds out whether several ranks train, and whether their gradients are summed before folding."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def ranks() -> int:
    """Returns how many processes torch.distributed connects; 0 if it is not initialized."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 0


def in_data_parallel(holds: Callable[[Tensor], bool]) -> bool:
    """Returns whether DistributedDataParallel has wrapped a parameter for which `holds` is true."""
    return any(modules_with(holds, DistributedDataParallel))


def modules_with(holds: Callable[[Tensor], bool], kind: type[nn.Module]) -> Iterator[Any]:
    """Yields the modules of a class, `kind`, that have a parameter for which `holds` is true.

    DistributedDataParallel and other modules that wrap a parameter leave no mark on it, so this
    looks for modules among all live objects.
    """
    for found in gc.get_objects():
        if issubclass(type(found), kind) and any(map(holds, found.parameters())):
            yield found


def is_sharded(param: Tensor) -> bool:
    """Returns whether a parameter is a DTensor. fully_shard (FSDP2) makes parameters DTensors."""
    module = sys.modules.get("torch.distributed.tensor")  # None: no code has imported DTensors
    return module is not None and isinstance(param, module.DTensor)


def nobody_sums(params: Collection[Tensor]) -> bool:
    """Returns whether some gradient is folded before anything known here sums it over the ranks.

    Two things are known: fully_shard (FSDP2), which sums before the hooks of its parameters run,
    and a hook that the user has registered on a parameter (Tensor.register_hook), which is taken to
    sum. Returns False if any parameter is sharded by fully_shard. Frozen parameters do not count. A
    sum that the model itself computes in its backward is not seen.

    params: all parameters of an optimizer.
    """
    if any(map(is_sharded, params)):
        return False
    return any(p.requires_grad and not p._backward_hooks for p in params)
