"""Files of the user are written whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roam.core.atomic_write import check_writable, write_file
from roam.core.errors import FileWriteError

OLD, NEW = b"old", b"new" * 10_000


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Meanwhile a write beyond so many bytes fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_bytes(OLD)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_full_disk_leaves_what_was_there(file: Path) -> None:
    with files_no_longer_than(4096), pytest.raises(FileWriteError, match=r"plan\.json: File too"):
        write_file(file, NEW)
    assert (file.read_bytes(), names(file.parent)) == (OLD, ["plan.json"])
    write_file(file, NEW)
    assert (file.read_bytes(), names(file.parent)) == (NEW, ["plan.json"])


def test_an_interruption_leaves_what_was_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(file, NEW)
    assert (file.read_bytes(), names(file.parent)) == (OLD, ["plan.json"])


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_permissions_stay(file: Path, mode: int) -> None:
    file.chmod(mode)
    write_file(file, NEW)
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    usual, new = tmp_path / "usual", tmp_path / "new"
    usual.write_text("")
    write_file(new, "text: ×")
    assert new.read_text(encoding="utf-8") == "text: ×"
    assert new.stat().st_mode == usual.stat().st_mode


def test_a_link_stays_a_link(file: Path) -> None:
    folder = file.parent / "elsewhere"
    folder.mkdir()
    for name in (file, folder / "missing"):
        link = file.parent / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        write_file(link, NEW)
        assert link.is_symlink()
        assert name.read_bytes() == NEW


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, NEW)
    reader.join()
    assert read == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_room_is_named() -> None:
    with pytest.raises(FileWriteError, match="cannot write /dev/full: No space left on device"):
        write_file("/dev/full", NEW)


def test_where_nothing_can_be_written(file: Path) -> None:
    for path, reason in ((file.parent, "Is a directory"), (file.parent / "no" / "x", "[Nn]o")):
        with pytest.raises(FileWriteError, match=f"cannot write {path}: .*{reason}"):
            write_file(path, NEW)
        with pytest.raises(FileWriteError, match=f"cannot write {path}: .*{reason}"):
            check_writable(path)
    check_writable(file)
    assert file.read_bytes() == OLD
