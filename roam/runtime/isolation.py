"""Runs operators isolated from the user's program, in a thread of their own.

The new thread has no fake tensors, autocast, default device, profiler or inference mode, whatever
the user's thread has. The default random generator belongs to the process, so its state is saved
and restored.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_lock = threading.Lock()


def aside(work: Callable[[], T]) -> T:
    """Runs `work` in another thread and returns its result. Only one runs at a time."""
    with _lock:
        return apart(work)


def apart(work: Callable[[], T]) -> T:
    """Runs `work`, which draws no random numbers, in another thread, from within `aside` too."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_quietly, work).result()


def _quietly(work: Callable[[], T]) -> T:
    with (
        warnings.catch_warnings(),  # an out= overload warns when it resizes what it was given
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        return work()


def settings() -> tuple[object, ...]:
    """Returns the process-wide settings of torch that decide which kernels run, and how."""
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
    )
