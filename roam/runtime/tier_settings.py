"""How a tier moves bytes, and counts of those that it has moved."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import StrEnum
from math import inf

from roam.core.machine import MIB, PAGE, SECTOR, Bytes, Seconds
from roam.runtime.fingerprint import Fingerprint
from roam.runtime.tier_file import whole_pages


class Verify(StrEnum):
    """What is compared of the bytes that come back with those that were sent.

    BYTES finds every difference, but reads all bytes once more on either way. On the CPU of a
    virtual machine that took 0.19 seconds a GiB, and the transfer itself 0.03. SECTORS reads one
    word of each sector, which took 0.05. It finds sectors that were never written, that were
    written elsewhere or overwritten, and no flipped bit in the rest of a sector.
    """

    BYTES = "bytes"
    SECTORS = "sectors"
    NOTHING = "nothing"


MOMENT: Seconds = 0.25  # between two checks whether a slowed-down transfer is still wanted


@dataclass(frozen=True)
class Settings:
    """How a tier moves bytes.

    Attributes:
        verify: what is compared of the bytes that come back with those that were sent.
        write_pace: the most bytes a second that are written.
        read_pace: the most bytes a second that are read.
        chunk: the most bytes that one system call moves. After each call the I/O thread has to wait
            for the interpreter's lock, which kernels may hold for milliseconds. So a few large
            calls are faster than many small ones.
    """

    verify: Verify = Verify.BYTES
    write_pace: float = inf
    read_pace: float = inf
    chunk: Bytes = 64 * MIB

    def fingerprint(self) -> Fingerprint | None:
        """Returns a fingerprint of nothing yet; None if nobody wants one."""
        step = {Verify.BYTES: 1, Verify.SECTORS: SECTOR // 8, Verify.NOTHING: 0}[self.verify]
        return Fingerprint(step) if step else None

    def __post_init__(self) -> None:
        if self.verify not in list(Verify):
            raise ValueError(f"verify={self.verify!r}: there are {', '.join(Verify)}")
        if self.chunk <= 0 or self.chunk % PAGE:
            raise ValueError(f"a chunk of {self.chunk} bytes is no multiple of {PAGE}")

    def piece(self, rate: float) -> Bytes:
        """Returns the bytes of a chunk at a pace: no more than pass in a moment."""
        paced = inf if rate == inf else whole_pages(int(rate * MOMENT) + 1)
        return int(min(self.chunk, paced))


@dataclass(frozen=True)
class Traffic:
    """What went one way so far, or since some earlier moment.

    Attributes:
        transfers: how many succeeded.
        nbytes: of their tensors.
        copied: those of the bytes that went through a bounce buffer.
        busy: seconds that the I/O thread took for them.
        stalled: seconds that threads waited for them.
    """

    transfers: int = 0
    nbytes: Bytes = 0
    copied: Bytes = 0
    busy: Seconds = 0.0
    stalled: Seconds = 0.0

    def plus(self, more: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(astuple(self), astuple(more), strict=True)))

    def since(self, earlier: Traffic) -> Traffic:
        return Traffic(*(a - b for a, b in zip(astuple(self), astuple(earlier), strict=True)))
