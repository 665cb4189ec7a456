"""A tier in a file: moves tensors to a folder of the user's and back while the step goes on.

    tier = file_tier("/mnt/nvme")               one for each folder and process
    region = tier.open(nbytes)                  a place in the file for one pending forward
    slot = tier.start_write(region, t, 0, "t")  the source must stay as it is until
    tier.wait_written(slot, t)                  here; then its memory may be used again
    tier.start_read(slot, target)               nobody may look at the target until
    tier.wait_read(slot, target)                here: its bytes are what they were, or this raises

Each direction has one I/O thread, which carries transfers out in the order of their starts.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from roam.core.machine import PAGE, Bytes, Seconds
from roam.passes.geometry import is_dense
from roam.runtime.blocks import carve
from roam.runtime.fingerprint import Data
from roam.runtime.regions import AddressSpace, Region, Span
from roam.runtime.tier_file import TierFile, Way
from roam.runtime.tier_folder import SystemCalls, check_folder
from roam.runtime.tier_settings import Settings, Traffic, Verify
from roam.runtime.transfers import Channel, Slot, geometry


class FileTier:
    """A folder in which tensors are kept, in one file that has no name.

    The file is made when it is first needed. A forked process makes its own, and cannot use what
    its parent has written.

    Attributes:
        folder: its path, with symbolic links resolved.
        out: the direction to the file; `out.traffic` tells what has gone there.
        back: the direction from the file.
        since: when the first transfer to the file began, by `time.monotonic`; None before.

    Raises:
        TierError: the folder cannot hold the file.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Settings | None = None,
        calls: SystemCalls | None = None,
    ) -> None:
        self.folder = Path(os.path.realpath(folder))
        check_folder(self.folder)
        settings = settings or Settings()
        self._calls = calls or SystemCalls()
        self.out, self.back = Channel("write", settings), Channel("read", settings)
        self._lock = threading.Lock()
        self._space: AddressSpace | None = None
        self.since: Seconds | None = None
        with _lock:
            _all.add(self)

    @property
    def key(self) -> str:
        """What ops of a graph name the tier by, and `file_tier` finds it by."""
        return str(self.folder)

    @property
    def settings(self) -> Settings:
        return self.out.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.out.use(settings)
        self.back.use(settings)

    def verify_by(self, verify: Verify) -> None:
        """Sets what is compared of the bytes that come back, for transfers from now on."""
        self.settings = replace(self.settings, verify=verify)

    @property
    def way(self) -> Way:
        """How bytes get to the disk."""
        return self._made().file.way

    @property
    def file_size(self) -> Bytes:
        """Bytes of the file; 0 if there is none yet."""
        return 0 if self._space is None else self._space.file.size

    def open(self, nbytes: Bytes) -> Region:
        """Returns room for the slots of one pending forward. It is free when nobody refers to it.

        Raises:
            TierError: the file cannot be made.
            TierFullError: the disk is full.
        """
        return self._made().open(nbytes)

    def reserve(self, nbytes: Bytes) -> None:
        """Makes room for one more region of this size. Raises what `open` raises."""
        self._made().reserve(nbytes)

    def start_write(self, region: Region, source: Tensor, offset: int, name: str) -> Slot:
        """Starts to write a tensor, whose memory nobody may change before `wait_written`.

        Args:
            region: where it goes.
            source: a dense tensor.
            offset: in the region, a multiple of PAGE. Bytes.
            name: of the tensor, for messages.

        Raises:
            TransferError: it cannot be started.
        """
        if why := _unfit(source):
            raise Span(region, name, offset, 0).failure("write", why)
        slot = Slot(region, name, offset, source)
        if offset < 0 or offset % PAGE or slot.end > region.end:
            raise slot.failure("write", f"no page-aligned place in a region of {region.nbytes}")
        if region.file.is_closed:
            raise slot.failure("write", "the process was forked after the region was opened")
        for before in region.claim(slot) if slot.nbytes else ():
            if isinstance(before, Slot) and before.is_moving:
                raise slot.failure("write", f"{before.name!r} is on its way there")
        self.since = self.since or time.monotonic()
        memory = _bytes(source)
        slot.head = region.file.head(memory)
        slot.written = self.out.start(slot, memory)
        return slot

    def wait_written(self, slot: Slot, source: Tensor) -> None:
        """Blocks until a tensor is in the file. Raises TransferError if it did not get there.

        The source must be that of the start: a compiler that makes a copy for the start would not
        keep the copy until the wait.
        """
        if source.data_ptr() != slot.source:
            raise slot.failure("write", "its start and its wait were given different memory")
        self.out.finish(slot, slot.written)
        slot.is_written = True

    def start_read(self, slot: Slot, target: Tensor) -> None:
        """Starts to read a tensor, whose memory nobody may look at before `wait_read`.

        Raises:
            TransferError: it cannot be started.
        """
        if not (why := _unfit(target)) and geometry(target) != slot.geometry:
            why = f"it was written as {slot.geometry} and is to be read as {geometry(target)}"
        if not slot.is_written:
            why = "nobody has waited for it to be written"
        if slot.overwritten_by:
            why = f"{slot.overwritten_by!r} has been written over it"
        if slot.region.file.is_closed:
            why = "the process was forked after it was written"
        if why:
            raise slot.failure("read", why)
        address = target.data_ptr()
        if (before := slot.reads.get(address)) is not None:
            before.cancel()  # an exception kept its wait from being reached
        slot.reads[address] = self.back.start(slot, _bytes(target))

    def wait_read(self, slot: Slot, target: Tensor) -> None:
        """Blocks until a tensor is back as it was. Raises TransferError if it is not."""
        address = target.data_ptr()
        transfer = slot.reads.get(address)
        self.back.finish(slot, transfer)
        if slot.reads.get(address) is transfer:
            slot.reads.pop(address, None)

    def settle(self) -> None:
        """Cancels what is under way. When it returns, no I/O thread works on anybody's memory.

        To be called after an exception or interrupt, before memory that transfers were working on
        is used for something else.
        """
        self.out.settle()
        self.back.settle()

    def trim(self) -> None:
        """Gives disk space behind the last open region back."""
        with self._lock:
            if self._space is not None:
                self._space.trim()

    def close(self) -> None:
        """Ends the threads. The file goes with its last region."""
        self.settle()
        self.out.thread.stop()
        self.back.thread.stop()
        self._space = None

    def _made(self) -> AddressSpace:
        with self._lock:
            if self._space is None:
                self._space = AddressSpace(TierFile(self.folder, self._calls))
            return self._space

    def _start_afresh(self) -> None:
        """Leaves the file and the threads to the process that this one was forked from."""
        self._lock = threading.Lock()
        if self._space is not None:
            self._space.file.close()
            self._space = self.since = None
        self.out.start_afresh()
        self.back.start_afresh()


_all: weakref.WeakSet[FileTier] = weakref.WeakSet()
_by_key: dict[str, FileTier] = {}
_lock = threading.Lock()


def file_tier(folder: str | Path, settings: Settings | None = None) -> FileTier:
    """Returns this process's tier in a folder.

    Args:
        folder: in which the file is.
        settings: for the transfers that start from now on; as they were if None.

    Raises:
        TierError: the folder cannot hold the file.
    """
    key = os.path.realpath(folder)
    with _lock:
        found = _by_key.get(key)
    if found is None:
        made = FileTier(key, settings)
        with _lock:
            found = _by_key.setdefault(key, made)
    elif settings is not None:
        found.settings = settings
    return found


def tiers() -> list[FileTier]:
    """Returns the tiers of this process that `file_tier` made."""
    with _lock:
        return [*_by_key.values()]


def traffic() -> tuple[Traffic, Traffic]:
    """Returns what went to all tiers of this process so far, and what came back."""
    with _lock:
        tiers = list(_all)
    out, back = Traffic(), Traffic()
    for tier in tiers:
        out, back = out.plus(tier.out.traffic), back.plus(tier.back.traffic)
    return out, back


def settle() -> None:
    """Cancels what is under way in every tier, as `FileTier.settle` does."""
    with _lock:
        tiers = list(_all)
    for tier in tiers:
        tier.settle()


def forget() -> None:
    """Closes the tiers of this process that `file_tier` made."""
    with _lock:
        tiers = [*_by_key.values()]
        _by_key.clear()
    for tier in tiers:
        tier.close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for tier in list(_all):
        tier._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _unfit(tensor: Tensor) -> str:
    """Why a tensor's memory cannot be moved as it is; empty if it can."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return f"it is {tensor.layout} on {tensor.device}, no strided tensor on the CPU"
    if tensor.is_conj() or tensor.is_neg():
        return "its memory holds the conjugate or negative of its elements"
    if tensor.numel() and not is_dense(tensor):
        return f"strides {tuple(tensor.stride())} of shape {tuple(tensor.shape)} leave gaps"
    return ""


def _bytes(tensor: Tensor) -> Data:
    """Returns the memory of a dense tensor. The array keeps it alive."""
    offset = int(tensor.storage_offset()) * tensor.itemsize
    found = carve(tensor, offset, torch.uint8, (tensor.nbytes,), (1,))
    array: Data = found.numpy()
    return array
