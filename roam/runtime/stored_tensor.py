"""A tensor that stays in a tier's file between its uses, as the state of an optimizer does.

    file     ── read ──► memory ── changed ── write ──► file ── read ──► ...
                                   [ `memory` holds it ]

Its newest value is always in one of three places: nowhere while it is still zero, in `memory` from
the moment when somebody may change it until the write of the change has ended well, and in its slot
of the file otherwise. So whatever ends a step early, no value is lost. A write goes over the slot:
memory holds the value until the slot does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from roam.core.errors import OptimizerCopyError, TransferError
from roam.runtime.file_tier import FileTier
from roam.runtime.io_thread import ThreadDiedError
from roam.runtime.transfers import Slot


class StoredTensor:
    """A tensor that stays in a file, zero at first.

    Attributes:
        name: of the tensor, for messages.
        shape, stride, dtype: where its elements lie in memory. There are no gaps.

    Raises:
        TierFullError: the disk is full.
    """

    def __init__(
        self,
        tier: FileTier,
        name: str,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self.name, self.shape, self.stride, self.dtype = name, shape, stride, dtype
        self._tier = tier
        self._region = tier.open(self.nbytes)
        self._memory: Tensor | None = None
        self._slot: Slot | None = None  # None: zeros, or the value has never left `_memory`
        self._writing: Slot | None = None

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def empty(self) -> Tensor:
        """Returns memory for the tensor, which holds nothing yet."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)

    def start_read(self, target: Tensor) -> None:
        """Starts to read the tensor, whose memory nobody may look at before `wait_read`.

        Raises:
            TransferError: it cannot be started.
        """
        with suppress(TransferError):  # then the value is in memory still
            self.settle()
        if self._memory is not None:
            target.copy_(self._memory)
        elif self._slot is None:
            target.zero_()
        else:
            self._give_up_reads(self._slot)
            self._tier.start_read(self._slot, target)

    def wait_read(self, target: Tensor) -> None:
        """Blocks until the tensor is there. Raises TransferError if it is not as it was sent."""
        if self._slot is not None and self._memory is None:
            self._tier.wait_read(self._slot, target)

    def hold(self, memory: Tensor) -> None:
        """Takes a tensor for the newest value from now on. It may still change before the write."""
        self._memory = memory

    def start_write(self, source: Tensor) -> None:
        """Starts to write the newest value, whose memory nobody may change before `wait_written`.

        Raises:
            TransferError: it cannot be started.
        """
        self._memory = source
        if self._slot is not None:
            self._give_up_reads(self._slot)
        self._writing = self._tier.start_write(self._region, source, 0, self.name)

    def wait_written(self, source: Tensor) -> None:
        """Blocks until the newest value is in the file.

        Raises:
            TransferError: it did not get there. Its memory is kept, so the next read finds it.
        """
        slot, self._writing = self._writing, None
        if slot is None:
            raise TransferError(f"nobody has started to write {self.name!r}", tensor=self.name)
        self._tier.wait_written(slot, source)
        self._slot, self._memory = slot, None

    def load(self) -> Tensor:
        """Returns the tensor. Raises TransferError if it does not come back as it was sent."""
        found = self.empty()
        self.start_read(found)
        self.wait_read(found)
        return found

    def store(self, value: Tensor) -> None:
        """Writes a new value. Raises TransferError if it did not get there."""
        with suppress(TransferError):
            self.settle()
        self.start_write(value)
        self.wait_written(value)

    def settle(self) -> None:
        """Waits for a write under way, if there is one. Raises what `wait_written` raises."""
        if self._writing is not None and self._memory is not None:
            self.wait_written(self._memory)

    def _give_up_reads(self, slot: Slot) -> None:
        """Cancels reads that an exception kept from being waited for."""
        for transfer in slot.reads.values():
            transfer.cancel()
            with suppress(ThreadDiedError):  # then nobody works on its memory either
                transfer.wait()
        slot.reads.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns another tensor in the same file. Holds one copy in memory meanwhile."""
        new = type(self)(self._tier, self.name, self.shape, self.stride, self.dtype)
        memo[id(self)] = new
        if self._slot is not None or self._memory is not None:
            new.store(self.load())
        return new

    def __reduce__(self) -> NoReturn:
        raise OptimizerCopyError(
            f"{self.name!r} lies in {self._tier.folder}: save the optimizer's state_dict(), which "
            "reads it"
        )

    def __repr__(self) -> str:
        return f"<{self.name}, {list(self.shape)} of {self.dtype}, in {self._tier.folder}>"
