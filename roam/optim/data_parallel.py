"""Several processes that train one model: whether anything sums the gradients that are folded."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def ranks() -> int:
    """Returns how many processes torch.distributed connects; 0 if it is not in use."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 0


def in_data_parallel(holds: Callable[[Tensor], bool]) -> bool:
    """Whether DistributedDataParallel has wrapped one of the parameters, which shows on none."""
    return any(
        issubclass(type(found), DistributedDataParallel) and any(map(holds, found.parameters()))
        for found in gc.get_objects()
    )


def is_sharded(param: Tensor) -> bool:
    """Returns whether the parameter is a DTensor: fully_shard (FSDP2) makes such."""
    module = sys.modules.get("torch.distributed.tensor")  # if nobody imported it, there are none
    return module is not None and isinstance(param, module.DTensor)


def nobody_sums(params: Collection[Tensor]) -> bool:
    """Returns whether some gradient meets neither FSDP nor a hook on its way to its fold.

    fully_shard sums gradients before the hooks of its parameters run. A hook of the user's
    (Tensor.register_hook) may sum them.
    """
    if any(map(is_sharded, params)):
        return False
    return any(p.requires_grad and not p._backward_hooks for p in params)
