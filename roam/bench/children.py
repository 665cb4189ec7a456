"""Runs contenders in new processes, which print JSON objects and read single words as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from roam.core.errors import RoamError

Result = dict[str, Any]


class ContenderError(RoamError):
    """A contender's process failed. The message ends with the process's stderr."""


@dataclass
class Child:
    label: str
    process: subprocess.Popen[str]
    stderr: IO[str]

    def ask(self, line: str) -> Result:
        """Writes a line, and returns the answer."""
        self.tell(line)
        return self.read()

    def tell(self, line: str) -> None:
        """Writes a line. Raises ContenderError if the process has ended."""
        assert self.process.stdin is not None
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._error() from None

    def read(self) -> Result:
        """Returns the next JSON object. Raises ContenderError if the process ends without one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._error()
        answer: Result = json.loads(line)
        return answer

    def _error(self) -> ContenderError:
        code = self.process.wait()
        self.stderr.seek(0)
        tail = "".join(self.stderr.readlines()[-15:])
        return ContenderError(f"{self.label} ended with exit status {code}:\n{tail}")


@contextmanager
def process(module: str, entry: str, contender: str, *more: str) -> Iterator[Child]:
    """Runs a worker in a new process: `python -m module --entry .. --contender ..`."""
    command = [sys.executable, "-m", module, "--entry", entry, "--contender", contender, *more]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # a thread that spins while it waits takes a core from the contender whose turn it is
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path},
        )
        try:
            yield Child(f"{contender} on {entry}", process, stderr)
        finally:
            process.kill()
            process.communicate()


def answering() -> Callable[[Result], None]:
    """Returns what a worker answers by: it prints a JSON object to the parent.

    From now on libraries print to stderr, so that stdout has the answers only.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Result) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    return say


def resident_peak() -> int:
    """Returns the most bytes that this process ever had resident.

    Prefers Linux's VmHWM: a child inherits ru_maxrss from its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [s for s in status.read_text().splitlines() if s.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
