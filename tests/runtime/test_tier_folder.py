"""A folder that cannot hold a tier's file is refused by name, and no file is ever left in one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import roam
from roam.core.errors import TierError, TierFullError
from roam.runtime.tier_folder import SystemCalls, check_folder, open_file
from tests.runtime.faults import on_disk

SHARED_MEMORY = Path("/dev/shm")


class Refusing(SystemCalls):
    """System calls that refuse to open files with some flags."""

    def __init__(self, code: int, flags: Callable[[int], bool] = lambda _: True) -> None:
        self.code, self.flags = code, flags

    def open(self, path: str, flags: int) -> int:
        if self.flags(flags):
            raise OSError(self.code, os.strerror(self.code))
        return super().open(path, flags)


def unnamed(flags: int) -> bool:
    return flags & os.O_TMPFILE == os.O_TMPFILE


def direct(flags: int) -> bool:
    return bool(flags & os.O_DIRECT)


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs a tmpfs")
def test_memory_is_refused_by_name() -> None:
    with pytest.raises(TierError, match=r"/dev/shm: it is memory \(tmpfs\).*name a folder on"):
        check_folder(SHARED_MEMORY)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(roam.RoamError, match=r"there is no such folder.*make it"):
        check_folder(tmp_path / "missing")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="it is no folder"):
        check_folder(tmp_path / "file")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_nobody_may_write_to(tmp_path: Path, code: int) -> None:
    with pytest.raises(TierError, match="that this user may write to") as caught:
        open_file(on_disk(tmp_path), Refusing(code))
    assert caught.value.errno == code
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    on_disk(tmp_path).chmod(0o500)
    with pytest.raises(TierError, match="that this user may write to"):
        open_file(tmp_path, SystemCalls())


def test_a_disk_without_room_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(TierFullError, match=r"are free\. Way out: free some") as caught:
        open_file(on_disk(tmp_path), Refusing(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
@pytest.mark.parametrize("without", [(), (unnamed,), (direct,), (unnamed, direct)])
def test_what_the_file_system_lacks_is_done_without(
    tmp_path: Path, code: int, without: tuple[Callable[[int], bool], ...]
) -> None:
    def lacks(flags: int) -> bool:
        return any(lack(flags) for lack in without)

    opened = open_file(on_disk(tmp_path), Refusing(code, lacks))
    assert opened.unnamed == (unnamed not in without)
    assert opened.direct <= (direct not in without)
    assert os.listdir(tmp_path) == []
    assert not os.get_inheritable(opened.fd)
    os.close(opened.fd)


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    class Interrupted(Refusing):
        def open(self, path: str, flags: int) -> int:
            os.close(super().open(path, flags))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_file(on_disk(tmp_path), Interrupted(errno.EOPNOTSUPP, unnamed))
    assert os.listdir(tmp_path) == []
