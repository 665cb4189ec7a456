"""Bytes reach a tier's file and come back, whatever their address, however short the transfers."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roam.core.errors import TierError, TierFullError
from roam.core.machine import PAGE
from roam.runtime.tier_file import TierFile, bounce_buffer
from roam.runtime.tier_folder import SystemCalls
from tests.runtime.faults import Fault, FaultyCalls, on_disk

BOUNCE = bounce_buffer(2 * PAGE)
MEMORY = bounce_buffer(32 * PAGE)


class NotDirect(SystemCalls):
    """A file system that opens files for direct transfers and then refuses each of them."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        if os.get_blocking(fd) and self.is_direct(fd):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().write(fd, data, offset)

    @staticmethod
    def is_direct(fd: int) -> bool:
        import fcntl

        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


class Pages(SystemCalls):
    """A disk whose units are pages."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        if len(data) % PAGE or offset % PAGE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().write(fd, data, offset)


class Unreserved(SystemCalls):
    """A file system that sets no space aside."""

    def allocate(self, fd: int, offset: int, nbytes: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return on_disk(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    address=st.integers(0, 2 * PAGE) | st.sampled_from([0, 64, 512, PAGE]),
    nbytes=st.integers(0, 3 * PAGE) | st.sampled_from([0, 1, 511, 512, 513, PAGE, 16 * PAGE]),
    page=st.integers(0, 4),
    calls=st.sampled_from([SystemCalls(), Pages(), NotDirect(), Unreserved()]),
)
def test_every_byte_comes_back(
    folder: Path, address: int, nbytes: int, page: int, calls: SystemCalls
) -> None:
    file = TierFile(folder, calls)
    file.grow(24 * PAGE)
    sent = MEMORY[address : address + nbytes]
    sent[:] = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    expected = sent.copy()
    file.write(sent, page * PAGE, BOUNCE)
    file.flush(page * PAGE, nbytes)
    assert np.array_equal(sent, expected)  # a write only reads
    MEMORY[:] = 7
    copied = file.read(sent, page * PAGE, BOUNCE)
    assert np.array_equal(sent, expected)
    assert (MEMORY[:address] == 7).all()
    assert (MEMORY[address + nbytes :] == 7).all()
    unit = file.way.unit
    assert copied == (0 if address % unit == nbytes % unit == 0 else nbytes)


def test_neighbours_are_left_alone(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    for page in (0, 2, 1):  # the last one between the others
        file.write(np.full(PAGE - 100, page + 1, np.uint8), page * PAGE, BOUNCE)
    back = np.zeros(PAGE - 100, np.uint8)
    for page in range(3):
        file.read(back, page * PAGE, BOUNCE)
        assert (back == page + 1).all()


def test_nothing_of_an_earlier_tensor_gets_behind_the_last_byte(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    file.write(np.full(PAGE - 1, 9, np.uint8), 0, BOUNCE)
    BOUNCE[:] = 9
    file.write(np.full(5, 3, np.uint8), PAGE, BOUNCE)
    back = np.ones(file.way.unit, np.uint8)
    file.read(back, PAGE, BOUNCE)
    assert (back[:5] == 3).all()
    assert not back[5:].any()


def test_the_way_is_told(folder: Path) -> None:
    way = TierFile(folder, NotDirect()).way
    assert not way.direct
    assert "through the page cache" in str(way)
    way = TierFile(folder, Pages()).way
    assert way.unit in (1, PAGE)
    way = TierFile(folder, Unreserved()).way
    assert not way.reserved
    assert "the disk may fill up" in str(way)
    way = TierFile(folder, SystemCalls()).way
    assert str(folder) in str(way)
    assert way.reserved


@pytest.mark.parametrize("kind", ["write", "read"])
@pytest.mark.parametrize("fault", [Fault.HALF, Fault.ODD])
@pytest.mark.parametrize("direct", [True, False])
def test_short_transfers_go_on_where_they_stopped(
    folder: Path, kind: str, fault: Fault, direct: bool
) -> None:
    calls = FaultyCalls(direct=direct)
    file = TierFile(folder, calls)
    file.grow(16 * PAGE)
    sent = MEMORY[: 8 * PAGE]
    sent[:] = np.arange(8 * PAGE) % 253
    for n in range(3):
        calls.arm(kind, n, fault)
    file.write(sent, 0, BOUNCE)
    back = MEMORY[8 * PAGE : 16 * PAGE]
    back[:] = 0
    file.read(back, 0, BOUNCE)
    assert np.array_equal(sent, back)
    assert calls.calls[kind] >= 4


@pytest.mark.parametrize("fault", [Fault.NOTHING, Fault.EIO, Fault.ENOSPC])
@pytest.mark.parametrize("kind", ["write", "read"])
def test_what_does_not_move_is_an_error(folder: Path, kind: str, fault: Fault) -> None:
    calls = FaultyCalls()
    file = TierFile(folder, calls)
    calls.arm(kind, 0, fault)
    with pytest.raises(OSError, match=r"changed its size|Input/output|No space") as caught:
        (file.write if kind == "write" else file.read)(MEMORY[:PAGE], 0, BOUNCE)
    assert caught.value.errno == (errno.ENOSPC if fault is Fault.ENOSPC else errno.EIO)


def test_a_file_that_became_shorter_is_an_error(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    os.ftruncate(file._fd, PAGE)
    with pytest.raises(OSError, match="changed its size"):
        file.read(MEMORY[: 2 * PAGE], 0, BOUNCE)


def test_its_space_is_set_aside(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    file.grow(100 * PAGE)
    found = os.fstat(file._fd)
    assert found.st_size == 100 * PAGE
    assert found.st_blocks * 512 >= 100 * PAGE
    file.grow(50 * PAGE)
    assert file.size == 100 * PAGE
    file.trim(10 * PAGE)
    assert os.fstat(file._fd).st_size == file.size == 10 * PAGE


@pytest.mark.parametrize("calls", [SystemCalls(), Unreserved()])
def test_a_disk_without_room_is_refused_with_sizes(folder: Path, calls: SystemCalls) -> None:
    file = TierFile(folder, calls)
    before = os.fstat(file._fd).st_size
    free = os.statvfs(folder)
    needed = free.f_bavail * free.f_frsize * 4
    with pytest.raises(TierFullError, match=r"more are needed, .* are free") as caught:
        file.grow(needed)
    assert caught.value.errno == errno.ENOSPC
    assert file.size == os.fstat(file._fd).st_size == before
    file.grow(before + PAGE)


def test_space_that_was_found_in_vain_is_given_back(folder: Path) -> None:
    class FullHalfway(SystemCalls):
        def allocate(self, fd: int, offset: int, nbytes: int) -> None:
            super().allocate(fd, offset, nbytes // 2 if offset else nbytes)
            if offset:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = TierFile(folder, FullHalfway())
    before = os.fstat(file._fd)
    with pytest.raises(TierFullError):
        file.grow(100 * PAGE)
    after = os.fstat(file._fd)
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)


def test_a_limit_on_files_is_refused_too(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(TierFullError, match="ulimit"):
            file.grow(2**21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file.grow(2**21)


def test_a_disk_that_fails_at_once_is_refused(folder: Path) -> None:
    calls = FaultyCalls()
    calls.arm("write", 0, Fault.EIO)
    with pytest.raises(TierError, match="on another disk") as caught:
        TierFile(folder, calls)
    assert caught.value.errno == errno.EIO


def test_nothing_is_left_in_the_folder(folder: Path) -> None:
    file = TierFile(folder, SystemCalls())
    assert os.listdir(folder) == []
    fd = file._fd
    del file
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
