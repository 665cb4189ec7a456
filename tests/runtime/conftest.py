"""What tests of the run time share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roam.runtime.file_tier import FileTier
from tests.runtime.faults import SMALL, on_disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk, in which nothing is left behind."""
    yield on_disk(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tier(folder: Path) -> Iterator[FileTier]:
    """A tier of its own, whose chunks are small."""
    made = FileTier(folder, SMALL)
    yield made
    made.close()


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[float], None]]:
    """Presses Ctrl-C after so many seconds, as in a program that nobody has told to ignore it.

    Test runners do: where they run tests in processes beside, the signal would end the process.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(seconds: float) -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    yield press
    signal.signal(signal.SIGINT, before)
