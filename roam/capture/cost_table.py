"""Measurements of one machine on disk, so that no op is measured twice.

    ~/.cache/roam/costs-4f1c92ab77d0.json      a file for each Site: torch, machine, threads
        "seconds": {"aten.mm.default(float32[8, 4] ...": 1.2e-05, ...}
        "rates":   {"cpu bandwidth": 9.1e9, "cpu flops float32": 1.1e11, ...}

ROAM_CACHE_DIR names another folder. Processes may write at the same time: each merges what it
measured into the file as it is then, under a lock. A file that cannot be read is measured again.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from itertools import islice
from math import isfinite
from pathlib import Path
from tempfile import gettempdir

import msgspec

from roam.core.atomic_write import write_file
from roam.core.errors import FileFormatError
from roam.core.machine import Seconds
from roam.core.strict_json import read_versioned

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("roam")

VERSION = 1
MOST = 20_000  # limit on the entries of a file: some 4 MB


@dataclass(frozen=True)
class Site:
    """What a measurement holds for.

    Attributes:
        torch: the version.
        machine: the model of the processor and of the accelerator.
        threads: how many of them an op may use.
    """

    torch: str
    machine: str
    threads: int

    @staticmethod
    def here() -> Site:
        """Returns what measurements in this process hold for."""
        import torch  # takes a second, and whoever only reads a table needs none

        return Site(str(torch.__version__), _machine(), torch.get_num_threads())

    @property
    def file_name(self) -> str:
        return f"costs-{sha256(repr(self).encode()).hexdigest()[:12]}.json"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_costs: int
    torch: str
    machine: str
    threads: int
    seconds: dict[str, float]
    rates: dict[str, float]


@dataclass
class CostTable:
    """What was measured at one site, now and before.

    Attributes:
        site: where.
        path: the file.
        seconds: of each call, by its text.
        rates: of the machine, by name.
        most: limit on the calls, and on the rates, that the file keeps: the oldest go first.
    """

    site: Site
    path: Path
    seconds: dict[str, Seconds] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    most: int = MOST

    @staticmethod
    def here() -> CostTable:
        """Returns the table of this machine and number of threads, which a process reads once."""
        return _read_once(Site.here(), cache_folder())

    @classmethod
    def open(cls, site: Site, folder: Path) -> CostTable:
        """Returns the table of a site with all that its file holds.

        Args:
            site: where costs will be measured.
            folder: where the file lies.
        """
        table = cls(site, folder / site.file_name)
        table._merge()
        return table

    def save(self) -> None:
        """Adds the measurements to the file. Logs, and goes on, if the file cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.path):
                self._merge()
                for entries in (self.seconds, self.rates):
                    for key in [*islice(entries, max(0, len(entries) - self.most))]:
                        del entries[key]
                at = self.site
                file = _File(VERSION, at.torch, at.machine, at.threads, self.seconds, self.rates)
                write_file(self.path, msgspec.json.encode(file))
        except OSError as error:  # FileWriteError is one
            log.warning("measured costs of ops are not kept: %s", error)

    def _merge(self) -> None:
        """Adds what the file holds and the table lacks."""
        try:
            file = self._read()
        except FileNotFoundError:
            return
        except (OSError, FileFormatError) as error:
            log.warning("the ops of %s are measured again: %s", self.path, error)
            return
        self.seconds = file.seconds | self.seconds
        self.rates = file.rates | self.rates

    def _read(self) -> _File:
        file = read_versioned(
            self.path.read_bytes(),
            _File,
            what="table of costs",
            key="roam_costs",
            version=VERSION,
            again="it is measured again",
        )
        if Site(file.torch, file.machine, file.threads) != self.site:
            raise FileFormatError("it was measured elsewhere")
        numbers = (*file.seconds.values(), *file.rates.values())
        if not all(isfinite(n) and n > 0 for n in numbers):
            raise FileFormatError("a cost or rate is no positive number")
        return file


def cache_folder() -> Path:
    """Returns where files that outlive a process lie."""
    if own := os.environ.get("ROAM_CACHE_DIR"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "roam"
    try:
        return Path.home() / ".cache" / "roam"
    except RuntimeError:  # a user without a home
        return Path(gettempdir()) / "roam"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes and threads from changing a file. Windows has no such lock: there the
    measurements of one of two writers may be lost, and are made again."""
    if sys.platform == "win32":
        yield
    else:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@cache
def _read_once(site: Site, folder: Path) -> CostTable:
    return CostTable.open(site, folder)


@cache
def _machine() -> str:
    """The model of the processor, as the system tells it, and of the accelerator."""
    import torch

    told = ""
    if (file := Path("/proc/cpuinfo")).exists():
        names = (s for s in file.read_text().splitlines() if s.startswith("model name"))
        told = next(names, "").partition(":")[2].strip()
    parts = [
        told or platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores",
        torch.backends.cpu.get_cpu_capability(),
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
