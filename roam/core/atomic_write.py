"""Files of the user, written whole or not at all.

    plan.json          what was there, untouched until the new bytes are on the disk
    .plan.json.x1y2    beside it, the new bytes; renamed to plan.json when all of them are written

A full disk, a limit or an interruption leaves the old file as it was, and nothing beside it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from errno import ENOENT
from pathlib import Path

from roam.core.errors import FileWriteError


def write_file(path: str | Path, data: bytes | str) -> None:
    """Replaces a file by these bytes, or by this text as UTF-8.

    A file that is there keeps its permissions, and a link to it stays a link. What is no regular
    file (a pipe, /dev/stdout) is written to directly: it holds nothing that could be lost.

    Raises:
        FileWriteError: naming the file and the reason.
    """
    data = data.encode() if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            with target.open("wb") as file:
                file.write(data)
        else:
            _replace(target, data)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileWriteError(f"cannot write {path}: {reason}") from error


def check_writable(path: str | Path) -> None:
    """Raises FileWriteError if `write_file` could not write there: for asking before long work."""
    target = Path(os.path.realpath(path))
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(ENOENT, f"there is no folder {Path(path).parent}")
        if target.exists():
            _mode(target)
    except OSError as error:
        raise FileWriteError(f"cannot write {path}: {error.strerror}") from error


def _replace(target: Path, data: bytes) -> None:
    mode = _mode(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The permissions of the file. Raises OSError where it may not be written."""
    if target.exists():
        with target.open("r+b") as file:
            return stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
