"""Where tensors may move to, as people say it: folders, and what is known of their disks."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import inf

from roam.core.errors import OptionError
from roam.core.machine import MIB, Bytes


@dataclass(frozen=True)
class OffloadTo:
    """A folder to which tensors may move between forward and backward.

    Attributes:
        folder: its path.
        write: bytes a second that go there; None: they are measured, once a machine and disk.
        read: bytes a second that come back; None: as `write`.
        smallest: bytes of the smallest tensor that may move.
        verify: what is compared of the bytes that come back with those that were sent: "bytes", all
            of them; "sectors", a word of each sector of the disk; "nothing".

    Raises:
        OptionError: a value is impossible.
    """

    folder: str
    write: float | None = None
    read: float | None = None
    smallest: Bytes = MIB
    verify: str = "bytes"

    def __post_init__(self) -> None:
        for name, rate in (("write", self.write), ("read", self.read)):
            if rate is not None and not 0 < rate < inf:
                raise OptionError(f"{name} of OffloadTo is bytes a second, not {rate!r}")
        if self.verify not in ("bytes", "sectors", "nothing"):
            raise OptionError(
                f"verify of OffloadTo is 'bytes', 'sectors' or 'nothing', not {self.verify!r}"
            )
        if self.smallest < 1:
            raise OptionError(f"smallest of OffloadTo is bytes, at least 1, not {self.smallest!r}")

    def at(self, write: float, read: float) -> OffloadTo:
        """Returns the same, with these rates where none are stated."""
        return replace(self, write=self.write or write, read=self.read or self.write or read)

    @staticmethod
    def parse(given: object) -> OffloadTo:
        """Reads the option `offload`: a path, or an OffloadTo. Raises OptionError."""
        if isinstance(given, OffloadTo):
            return given
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
            raise OptionError(f"option offload is the path of a folder, not {given!r}")
        if given == "host":
            raise OptionError(
                "option offload='host' is for devices with memory of their own, which roam does "
                "not move tensors from yet: give the path of a folder"
            )
        return OffloadTo(os.path.abspath(os.fsdecode(given)))


@dataclass(frozen=True)
class OffloadOption:
    """What may move to files, and where to.

    Attributes:
        activations: where tensors go that are saved for the backward; None if they stay.
        states: where the states of an optimizer lie between steps; None if they are in memory.
    """

    activations: OffloadTo | None = None
    states: OffloadTo | None = None

    def at(self, write: float, read: float) -> OffloadOption:
        """Returns the same, with these rates where none are stated."""
        parts = (self.activations, self.states)
        return OffloadOption(*(None if to is None else to.at(write, read) for to in parts))

    @staticmethod
    def parse(given: object) -> OffloadOption:
        """Reads the option `offload`: of activations alone, or a dict. Raises OptionError."""
        if isinstance(given, OffloadOption):
            return given
        if not isinstance(given, dict):
            return OffloadOption(OffloadTo.parse(given))
        if not given or not set(given) <= {"activations", "states"}:
            raise OptionError(
                "option offload is a folder, or a dict of folders for 'activations' and 'states', "
                f"not {given!r}"
            )
        return OffloadOption(**{what: OffloadTo.parse(to) for what, to in given.items()})
