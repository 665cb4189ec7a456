"""Makes the file of a tier in a folder of the user's, or says why it cannot be there.

The file has no name (O_TMPFILE), or loses it at once if the file system needs one. So it can
neither be changed nor left behind by anybody: it is gone with the process, however that ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from roam.core.errors import TierError, TierFullError
from roam.core.machine import Bytes
from roam.core.sizes import show_size

# f_type of file systems whose files are memory (linux/magic.h)
MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x958458F6: "hugetlbfs"}
# what a file system answers if it does not know O_TMPFILE or O_DIRECT
UNKNOWN_FLAG = (errno.EOPNOTSUPP, errno.EINVAL, errno.EISDIR, errno.ENOENT, errno.ENOSYS)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class SystemCalls:
    """The system calls on a tier's file. A test puts one with faults in its place."""

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags, 0o600)

    def allocate(self, fd: int, offset: int, nbytes: Bytes) -> None:
        os.posix_fallocate(fd, offset, nbytes)

    def write(self, fd: int, data: memoryview, offset: int) -> Bytes:
        return os.pwritev(fd, [data], offset)

    def read(self, fd: int, into: memoryview, offset: int) -> Bytes:
        return os.preadv(fd, [into], offset)

    def flush(self, fd: int, offset: int, nbytes: Bytes) -> None:
        """Writes what the page cache holds of a range to the disk, and drops it from the cache."""
        os.fdatasync(fd)
        os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Opened:
    """A new file.

    Attributes:
        fd: its descriptor.
        unnamed: whether it never had a name.
        direct: whether it was opened for transfers around the page cache.
    """

    fd: int
    unnamed: bool
    direct: bool


def check_folder(folder: Path) -> None:
    """Raises TierError if the folder is missing, none, or in memory."""
    if sys.platform != "linux":
        raise TierError(f"cannot move tensors to {folder}: that needs Linux. Leave out `offload`")
    if not folder.exists():
        raise TierError(_refusal(folder, "there is no such folder", "make it, or name another"))
    if not folder.is_dir():
        raise TierError(_refusal(folder, "it is no folder", "name a folder on a disk"))
    if (kind := MEMORY.get(_file_system(folder))) is not None:
        raise TierError(
            _refusal(folder, f"it is memory ({kind}), no disk", "name a folder on a disk")
        )


def open_file(folder: Path, calls: SystemCalls) -> Opened:
    """Opens a new file of no bytes, unnamed and direct if the file system can.

    Raises:
        TierError: nothing can be written there.
    """
    check_folder(folder)
    for direct in (True, False):
        for unnamed in (True, False):
            try:
                fd = _open(folder, calls, direct=direct, unnamed=unnamed)
            except OSError as error:
                if error.errno in UNKNOWN_FLAG and (direct or unnamed):
                    continue
                raise refusal(folder, error) from error
            return Opened(fd, unnamed, direct)
    raise AssertionError("the last way either opens or raises")


def refusal(folder: Path, error: OSError, needed: Bytes = 0) -> TierError:
    """Returns the error for a file that cannot be made or grow.

    Args:
        folder: of the tier.
        error: what the system said.
        needed: bytes that the file should grow by.
    """
    refused: TierError
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in NO_ROOM:
        found = os.statvfs(folder)
        free = show_size(found.f_bavail * found.f_frsize)
        why = f"{why}: {show_size(needed)} more are needed, {free} are free"
        way_out = "free some of it, name another folder, or leave out `offload`"
        refused = TierFullError(_refusal(folder, why, way_out))
    elif error.errno == errno.EFBIG:
        why = f"{why}: {show_size(needed)} more are needed"
        way_out = "raise the limit (`ulimit -f`), name another folder, or leave out `offload`"
        refused = TierFullError(_refusal(folder, why, way_out))
    elif error.errno in FORBIDDEN:
        refused = TierError(_refusal(folder, why, "name a folder that this user may write to"))
    else:
        refused = TierError(_refusal(folder, why, "name a folder on another disk"))
    refused.errno = error.errno
    return refused


def _open(folder: Path, calls: SystemCalls, *, direct: bool, unnamed: bool) -> int:
    flags = os.O_RDWR | os.O_EXCL | (os.O_DIRECT if direct else 0)
    if unnamed:
        return calls.open(str(folder), flags | os.O_TMPFILE)
    path = folder / f".roam-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        return calls.open(str(path), flags | os.O_CREAT)
    finally:
        path.unlink(missing_ok=True)


def _refusal(folder: Path, why: str, way_out: str) -> str:
    return f"cannot move tensors to {folder}: {why}. Way out: {way_out}"


def _file_system(folder: Path) -> int:
    """The number of a folder's type of file system (statfs(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # more than any struct statfs; f_type comes first
    if libc.statfs(os.fsencode(folder), buffer) != 0:
        raise refusal(folder, OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
    return int(ctypes.c_long.from_buffer(buffer).value) & 0xFFFFFFFF
