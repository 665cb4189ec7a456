"""Runs operators aside from the user's program: nothing of it is seen there, and nothing changed.

A thread of its own has no fake tensors, no autocast, no default device, no profiler and no
inference mode, whatever the user's has. The default generator is the process's: it is put back.
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
    """Returns what `work` returns, run in another thread, one at a time in the process."""
    with _lock, ThreadPoolExecutor(1) as thread:
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
    """The process-wide settings of torch that decide which kernels run, and how."""
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
    )
