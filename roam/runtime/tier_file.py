"""The file of a tier: bytes of memory go to an offset and come back, around the page cache.

Direct transfers need addresses, lengths and offsets that are multiples of a unit, mostly 512 bytes.
Other bytes go through a bounce buffer. If the file system knows no direct transfers, all bytes pass
the page cache and are dropped from it at once.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roam.core.machine import PAGE, SECTOR, Bytes
from roam.runtime.fingerprint import Data
from roam.runtime.tier_folder import SystemCalls, open_file, refusal

if sys.platform != "win32":
    import fcntl

UNITS: tuple[Bytes, ...] = (SECTOR, PAGE)  # of direct transfers, as they are tried
NOT_KNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of posix_fallocate


def whole_pages(nbytes: Bytes) -> Bytes:
    return -(-nbytes // PAGE) * PAGE


@dataclass(frozen=True)
class Way:
    """How bytes get to the disk and back, for reports.

    Attributes:
        folder: of the file.
        unnamed: whether the file never had a name.
        unit: bytes of which addresses, lengths and offsets of direct transfers are multiples; 1 if
            the file system has no direct transfers.
        reserved: whether the disk has set the file's space aside, so that it cannot run out later.
    """

    folder: Path
    unnamed: bool
    unit: Bytes
    reserved: bool

    @property
    def direct(self) -> bool:
        """Whether transfers go around the page cache."""
        return self.unit > 1

    def __str__(self) -> str:
        way = f"direct, in units of {self.unit} bytes" if self.direct else "through the page cache"
        name = "without a name" if self.unnamed else "unlinked at once"
        space = "set aside" if self.reserved else "not set aside, so the disk may fill up"
        return f"a file {name} in {self.folder}; transfers are {way}; its space is {space}"


def bounce_buffer(nbytes: Bytes) -> Data:
    """Returns memory at the start of a page. It takes no room until it is used."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a forked process gets its own
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=private), np.uint8)


class TierFile:
    """A file that grows and never shrinks while it is in use. It is gone when nobody refers to it.

    Attributes:
        size: bytes.
        way: how bytes get there.
        is_closed: whether it belongs to the process that this one was forked from.
    """

    def __init__(self, folder: Path, calls: SystemCalls) -> None:
        opened = open_file(folder, calls)
        self._fd, self._calls = opened.fd, calls
        # not at exit: the I/O thread may still run then, and the number could be another file's
        self._close = weakref.finalize(self, os.close, opened.fd)
        self._close.atexit = False
        self.size: Bytes = 0
        self.is_closed = False
        self.way = Way(folder, opened.unnamed, 1, True)
        self.grow(4 * PAGE)
        self.way = replace(self.way, unit=self._probe() if opened.direct else 1)
        if opened.direct and not self.way.direct:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def close(self) -> None:
        """Closes this process's descriptor, after a fork."""
        self.is_closed = True
        self._close()

    def grow(self, size: Bytes) -> None:
        """Makes the file at least this large, with its space set aside if the file system can.

        Raises:
            TierFullError: the disk has no room. The file stays as large as it was.
        """
        more = size - self.size
        if more <= 0:
            return
        free = os.statvfs(self.way.folder)
        if free.f_bfree * free.f_frsize < more:  # the attempt would fill the disk before it fails
            raise refusal(self.way.folder, OSError(errno.ENOSPC, ""), more)
        try:
            self._calls.allocate(self._fd, self.size, more)
        except OSError as error:
            if error.errno not in NOT_KNOWN:
                os.ftruncate(self._fd, self.size)  # what was found is given back
                raise refusal(self.way.folder, error, more) from error
            self._extend(size)
        self.size = size

    def trim(self, size: Bytes) -> None:
        """Gives the space from `size` on back to the disk."""
        if size < self.size:
            os.ftruncate(self._fd, size)
            self.size = size

    def head(self, data: Data) -> Bytes:
        """Returns how many bytes there are before the first that may begin a direct transfer.

        0 if no direct transfer lies in the data.
        """
        head: Bytes = -data.ctypes.data % self.way.unit
        return head if data.size >= head + self.way.unit else 0

    def write(self, data: Data, offset: int, bounce: Data) -> Bytes:
        """Writes bytes, and zeros behind them up to a whole unit.

        Args:
            data: the bytes.
            offset: in the file, in whole units.
            bounce: a buffer of whole units that nobody else uses now.

        Returns:
            How many bytes were copied on the way.

        Raises:
            OSError: the system reports an error, or writes nothing.
        """
        if self._is_direct(data):
            self._write_all(data, offset)
            return 0
        for start in range(0, data.size, bounce.size):
            part = data[start : start + bounce.size]
            padded = bounce[: self.units(part.size)]
            padded[: part.size] = part
            padded[part.size :] = 0
            self._write_all(padded, offset + start)
        return data.size

    def read(self, into: Data, offset: int, bounce: Data) -> Bytes:
        """Reads bytes. Arguments, result and errors are those of `write`."""
        if self._is_direct(into):
            self._read_all(into, offset)
            return 0
        for start in range(0, into.size, bounce.size):
            part = into[start : start + bounce.size]
            padded = bounce[: self.units(part.size)]
            self._read_all(padded, offset + start)
            part[:] = padded[: part.size]
        return into.size

    def flush(self, offset: int, nbytes: Bytes) -> None:
        """Empties the page cache of a range, if bytes pass it."""
        if not self.way.direct:
            self._calls.flush(self._fd, offset, nbytes)

    def units(self, nbytes: Bytes) -> Bytes:
        """Returns bytes rounded up to whole units."""
        return -(-nbytes // self.way.unit) * self.way.unit

    def _is_direct(self, data: Data) -> bool:
        """Whether the bytes can be transferred where they lie."""
        return data.size % self.way.unit == data.ctypes.data % self.way.unit == 0

    def _write_all(self, data: Data, offset: int) -> None:
        view = data.data
        done = 0
        while done < len(view):
            done += self._progress(self._calls.write(self._fd, view[done:], offset + done))

    def _read_all(self, into: Data, offset: int) -> None:
        view = into.data
        done = 0
        while done < len(view):
            done += self._progress(self._calls.read(self._fd, view[done:], offset + done))

    def _progress(self, moved: Bytes) -> Bytes:
        """Returns the whole units: the next transfer must begin at one. OSError if none moved."""
        moved -= moved % self.way.unit
        if moved <= 0:
            raise OSError(errno.EIO, "nothing more is transferred: the file has changed its size")
        return moved

    def _probe(self) -> Bytes:
        """The smallest unit in which bytes can be written and read back. 1 if there is none."""
        memory = bounce_buffer(4 * PAGE)
        for unit in UNITS:
            sent, back = memory[unit : 2 * unit], memory[3 * unit : 4 * unit]
            sent[:] = np.arange(unit) % 251
            try:
                self._calls.write(self._fd, sent.data, unit)
                self._calls.read(self._fd, back.data, unit)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise refusal(self.way.folder, error) from error
            else:
                if np.array_equal(sent, back):
                    return unit
        return 1

    def _extend(self, size: Bytes) -> None:
        """Grows a file on a file system that sets no space aside."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise refusal(self.way.folder, error, size - self.size) from error
        self.way = replace(self.way, reserved=False)
