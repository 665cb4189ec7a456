"""A thread that does input and output, so that the thread that trains need not wait.

    training thread      hand_over(job) ─────────── compute ─────────── job.wait()
                               │                                            ▲
    I/O thread                 └─► job.carry_out() ─────────────────── job is done

The thread is a daemon and starts with the first job. A job keeps what went wrong until somebody
waits for it. If the thread itself has died, or belongs to the process that this one was forked
from, waiting raises at once: nothing waits forever.
"""

from __future__ import annotations

import logging
import os
import threading
from queue import SimpleQueue

from roam.core.machine import Seconds

log = logging.getLogger("roam")

LOOK_AGAIN: Seconds = 0.5  # between two checks, during a wait, that the thread is still alive


class ThreadDiedError(RuntimeError):
    """The thread that had to carry out a job is gone."""


class Job:
    """Something for an `IoThread` to do.

    Attributes:
        error: what went wrong, once the job is done; None if nothing did.
        is_done: whether it is over, well or not.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        # held until the job is done. An Event would not do: an interrupt in its wait may leave its
        # inner state half changed
        self._under_way = threading.Lock()
        self._under_way.acquire()
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def carry_out(self) -> None:
        """Does it. Runs on the I/O thread."""
        raise NotImplementedError

    def wait(self) -> None:
        """Blocks until the job is done, whether it went well or not. Ctrl-C interrupts it.

        Raises:
            ThreadDiedError: nobody is there to do it.
        """
        if self._process != os.getpid():  # its locks may be held by a thread that is not here
            raise ThreadDiedError("the process was forked while it was under way")
        while not self.is_done:
            dead = self._thread is None or not self._thread.is_alive()
            if dead and not self.is_done:  # it may have ended after the job
                raise ThreadDiedError("the thread that had to do it has died")
            if self._under_way.acquire(timeout=LOOK_AGAIN):
                self._under_way.release()  # for others who wait

    def run(self) -> None:
        """Carries it out and keeps the error."""
        try:
            self.carry_out()
        except BaseException as error:  # raised again where somebody waits for it
            log.debug("input or output failed", exc_info=True)
            self.error = error.with_traceback(None)  # the frames hold memory
        finally:
            self.is_done = True
            self._under_way.release()


class IoThread:
    """One thread that carries out jobs in the order in which they are handed over."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forgets the thread and its jobs: in a forked process there is no such thread."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()

    def hand_over(self, job: Job) -> None:
        """Queues a job. Starts the thread if there is none, or a new one if it has died."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._jobs = SimpleQueue()
                self._thread = threading.Thread(
                    target=_work, args=(self._jobs,), name=self.name, daemon=True
                )
                self._thread.start()
            job._thread = self._thread
            self._jobs.put(job)

    def stop(self) -> None:
        """Ends the thread once it has done what it was handed."""
        with self._lock:
            self._jobs.put(None)
            self._thread = None


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # while there is nothing to do, the thread must keep no memory alive
