"""Counts the bytes that a call allocates: really, or on fake tensors, which take no memory.

measured_peak    reads the allocator's events, on the CPU. Sees what kernels allocate for
                 themselves (partial sums, work space of LAPACK), and needs real tensors
fake_peak        follows the storages that operators return. Takes no memory at any size, on any
                 device, and sees nothing of what happens inside of a kernel
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import profiler_legacy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from roam.core.machine import Bytes


def measured_peak(call: Callable[[], object]) -> tuple[Bytes, object]:
    """Runs `call` on real tensors of the CPU.

    Has to run in a thread without a profiler (see `isolation.aside`).

    Returns:
        peak: the most bytes that were allocated at a time, above those from before.
        result: what `call` returned.
    """
    collects = gc.isenabled()
    gc.disable()  # freeing earlier garbage during the call would be counted
    profiler = profiler_legacy.profile(profile_memory=True)
    profiler.__enter__()
    try:
        result = call()
    finally:
        records: Any = torch.autograd._disable_profiler_legacy()  # type: ignore[attr-defined]
        if collects:
            gc.enable()
    changes = [r.cpu_memory_usage() for t in records for r in t if r.kind() == "memory_alloc"]
    return _peak(changes), result


def fake_peak(make: Callable[[], Sequence[Tensor]], call: Callable[..., object]) -> Bytes:
    """Returns the most bytes that `call(*make())` allocates at a time, without running kernels.

    Args:
        make: creates the operands, which do not count.
        call: must not read values of tensors.
    """
    with FakeTensorMode():
        operands = make()
        storages = _Storages(operands)
        with storages:
            call(*operands)
    return storages.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of the storages that operators create, until they are freed."""

    def __init__(self, operands: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        # the operands' storages stay alive, so that none of the new ones gets their key
        self._operands = [t.untyped_storage() for t in operands]
        self._alive: dict[int, Any] = {s._cdata: s for s in self._operands}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for found in tree_leaves(result):
            if isinstance(found, Tensor):
                self._add(found.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: Bytes) -> None:
        del self._alive[key]
        self.now -= size


def _peak(changes: Sequence[Bytes]) -> Bytes:
    now = highest = 0
    for change in changes:
        now += change
        highest = max(highest, now)
    return highest
