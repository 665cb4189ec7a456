"""What tests of the run time share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest


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
