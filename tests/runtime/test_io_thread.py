"""Jobs run in order on another thread, and waiting for one ends whatever becomes of the thread."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from roam.runtime.io_thread import IoThread, Job, ThreadDiedError

# pytest reports a thread that ends by an exception, as `Dies` lets it
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Do(Job):
    """A job of any function."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def carry_out(self) -> None:
        self.act()


class Dies(Job):
    """A job that takes its thread along."""

    def run(self) -> None:
        raise SystemExit


def test_jobs_run_in_order_elsewhere() -> None:
    thread, seen = IoThread("test"), []
    jobs = [Do(partial(lambda i: seen.append((i, threading.get_ident())), i)) for i in range(50)]
    for job in jobs:
        thread.hand_over(job)
    for job in jobs:
        job.wait()
    assert [i for i, _ in seen] == list(range(50))
    assert len({ident for _, ident in seen} | {threading.get_ident()}) == 2


def test_an_error_is_kept_and_the_thread_goes_on() -> None:
    thread = IoThread("test")
    bad, good = Do(lambda: 1 / 0), Do(lambda: None)
    thread.hand_over(bad)
    thread.hand_over(good)
    good.wait()
    bad.wait()
    assert isinstance(bad.error, ZeroDivisionError)
    assert good.error is None


def test_a_dead_thread_is_noticed() -> None:
    """By those who wait for what it was doing, and for what it would have done next."""
    thread, go_on = IoThread("test"), threading.Event()
    jobs = [Do(go_on.wait), Dies(), Do(lambda: None)]
    for job in jobs:
        thread.hand_over(job)
    go_on.set()
    jobs[0].wait()
    for job in jobs[1:]:
        with pytest.raises(ThreadDiedError, match="died"):
            job.wait()


def test_a_new_thread_follows_a_dead_one() -> None:
    thread = IoThread("test")
    dead = Dies()
    thread.hand_over(dead)
    with pytest.raises(ThreadDiedError):
        dead.wait()
    job = Do(lambda: None)
    thread.hand_over(job)
    job.wait()
    assert job.is_done


def test_nobody_waits_for_what_was_never_handed_over() -> None:
    with pytest.raises(ThreadDiedError):
        Do(lambda: None).wait()


def test_a_thread_without_work_keeps_nothing_alive() -> None:
    thread, job = IoThread("test"), Do(lambda: None)
    thread.hand_over(job)
    job.wait()
    gone = weakref.ref(job)
    del job
    for _ in range(1000):  # it may not have come to its next round yet
        if gone() is None:
            break
        time.sleep(0.005)
    assert gone() is None


def test_an_error_keeps_no_memory_alive() -> None:
    class Big:
        pass

    class Fails(Job):
        def carry_out(self) -> None:
            big = Big()
            found.append(weakref.ref(big))
            raise ValueError("no")

    found: list[weakref.ref[Big]] = []
    thread, job = IoThread("test"), Fails()
    thread.hand_over(job)
    job.wait()
    assert isinstance(job.error, ValueError)
    gc.collect()
    assert found[0]() is None


def test_ctrl_c_ends_a_wait_and_no_more(ctrl_c: Callable[[float], None]) -> None:
    thread, go_on = IoThread("test"), threading.Event()
    job = Do(go_on.wait)
    thread.hand_over(job)
    ctrl_c(0.1)
    with pytest.raises(KeyboardInterrupt):
        job.wait()
    assert not job.is_done
    go_on.set()
    job.wait()
    assert job.error is None


def test_a_forked_process_does_not_wait_for_its_parents_thread() -> None:
    thread, go_on = IoThread("test"), threading.Event()
    job = Do(go_on.wait)
    thread.hand_over(job)
    child = os.fork()
    if child == 0:
        try:
            job.wait()
        except ThreadDiedError:
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    go_on.set()
    assert os.waitstatus_to_exitcode(status) == 7


def test_stopping_does_what_was_handed_over_first() -> None:
    thread, seen = IoThread("test"), []
    job = Do(lambda: seen.append(1))
    thread.hand_over(job)
    ended = thread._thread
    assert ended is not None
    thread.stop()
    ended.join(10)
    assert not ended.is_alive()
    assert seen == [1]
    again = Do(lambda: seen.append(2))
    thread.hand_over(again)
    again.wait()
    assert seen == [1, 2]
