"""System calls that go wrong when a test says so, and a look into a tier's file from beside."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from roam.core.machine import PAGE, Bytes
from roam.runtime import file_tier
from roam.runtime.file_tier import FileTier
from roam.runtime.tier_file import bounce_buffer
from roam.runtime.tier_folder import MEMORY, SystemCalls, _file_system
from roam.runtime.tier_settings import Settings

KIB = 1024
SMALL = Settings(chunk=32 * KIB)  # several chunks in a tensor of some pages


class Fault(StrEnum):
    """What a system call does in place of what it was asked for."""

    EIO = "reports an I/O error"
    ENOSPC = "reports a full disk"
    NOTHING = "moves no byte"
    HALF = "moves about half of the bytes, in whole units"
    ODD = "says that it moved some bytes that are no whole units"
    SKIP = "says that it moved all, and moved none"
    FLIP = "moves all, and one bit wrong"
    LATE = "takes longer"


class FaultyCalls(SystemCalls):
    """The system's calls, with a fault in the n-th one of a kind.

    Args:
        direct: whether files can be opened for direct transfers.

    Attributes:
        calls: how many there were of each kind, since `arm`; of at least as many bytes as it names.
    """

    def __init__(self, *, direct: bool = True) -> None:
        self._direct = direct
        self.calls = {"write": 0, "read": 0}
        self._smallest = {"write": 0, "read": 0}
        self._faults: dict[tuple[str, int], Fault] = {}

    def arm(self, kind: str, n: int, fault: Fault, *, smallest: Bytes = 0) -> None:
        """Lets the n-th of the calls from now on go wrong, counted from 0.

        smallest: only calls that move at least so many bytes count.
        """
        self.calls[kind], self._smallest[kind] = 0, smallest
        self._faults[kind, n] = fault

    def disarm(self) -> None:
        """Forgets the faults that have not happened."""
        self._faults.clear()

    @property
    def is_over(self) -> bool:
        """Whether all faults have happened."""
        return not self._faults

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_DIRECT and not self._direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().open(path, flags)

    def write(self, fd: int, data: memoryview, offset: int) -> Bytes:
        return self._call(
            "write", data, lambda part: super(FaultyCalls, self).write(fd, part, offset)
        )

    def read(self, fd: int, into: memoryview, offset: int) -> Bytes:
        return self._call(
            "read", into, lambda part: super(FaultyCalls, self).read(fd, part, offset)
        )

    def _call(self, kind: str, data: memoryview, move: Callable[[memoryview], Bytes]) -> Bytes:
        if len(data) < self._smallest[kind]:
            return move(data)
        number = self.calls[kind]
        self.calls[kind] += 1
        match self._faults.pop((kind, number), None):
            case None:
                return move(data)
            case Fault.EIO | Fault.ENOSPC as fault:
                code = getattr(errno, fault.name)
                raise OSError(code, os.strerror(code))
            case Fault.NOTHING:
                return 0
            case Fault.HALF:
                half = len(data) // 2 // 512 * 512
                return move(data[: half or len(data)])
            case Fault.ODD:
                return min(move(data), PAGE + 700)
            case Fault.SKIP:
                return len(data)
            case Fault.LATE:
                time.sleep(0.002)
                return move(data)
            case Fault.FLIP:
                if kind == "write":
                    wrong = bounce_buffer(len(data))  # a write must not change its source
                    wrong[:] = np.frombuffer(data, np.uint8)
                    wrong[0] ^= 4
                    return move(wrong.data)
                moved = move(data)
                data[0] ^= 4
                return moved


@contextmanager
def file_of(tier: FileTier) -> Iterator[int]:
    """A second descriptor of a tier's file, through the page cache."""
    assert tier._space is not None
    fd = os.open(f"/proc/self/fd/{tier._space.file._fd}", os.O_RDWR)
    try:
        yield fd
    finally:
        os.fsync(fd)
        os.close(fd)


def flip(tier: FileTier, offset: int, bit: int = 0) -> None:
    """Flips a bit of a tier's file."""
    with file_of(tier) as fd:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 1 << bit]), offset)


def swap(tier: FileTier, a: int, b: int, nbytes: Bytes) -> None:
    """Lets two ranges of a tier's file change places."""
    with file_of(tier) as fd:
        at_a, at_b = os.pread(fd, nbytes, a), os.pread(fd, nbytes, b)
        os.pwrite(fd, at_b, a)
        os.pwrite(fd, at_a, b)


def on_disk(folder: Path) -> Path:
    """Returns the folder. Skips the test if it is memory, which no tier accepts."""
    if (kind := MEMORY.get(_file_system(folder))) is not None:
        pytest.skip(f"the folder for temporary files is {kind}")
    return folder


def fail_as(calls: SystemCalls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the process's tier in a folder make these calls, until the test ends."""
    tier = FileTier(folder, None, calls)
    monkeypatch.setitem(file_tier._by_key, str(folder.resolve()), tier)
