"""The address space of a tier's file: regions for pending forwards, and slots in them.

    file    ├── region of forward 1 ──┤     free     ├── region of forward 2 ──┤
              slot │ slot │ slot                       slot │ slot │ slot

Reference counts alone decide how long a region lives, as with blocks of memory. A slot holds its
region, and a transfer under way holds it too. A region is free when nobody refers to it, so there
is no list of free space that an exception or a dropped graph could leave wrong.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from itertools import count
from typing import Literal

from roam.core.errors import TransferError
from roam.core.machine import Bytes
from roam.runtime.tier_file import TierFile, whole_pages

Direction = Literal["write", "read"]


class Region:
    """Bytes of a tier's file for one pending forward.

    Attributes:
        file: where they are.
        offset: of the first of them, in the file.
        nbytes: how many; whole pages.
        number: tells it from the regions that were there before, from 1 on.
    """

    def __init__(self, file: TierFile, offset: int, nbytes: Bytes, number: int) -> None:
        self.file, self.offset, self.nbytes, self.number = file, offset, nbytes, number
        self._latest: list[tuple[int, int, weakref.ref[Span]]] = []  # disjoint, by offset
        self._lock = threading.Lock()

    @property
    def end(self) -> int:
        return self.offset + self.nbytes

    def claim(self, span: Span) -> list[Span]:
        """Gives a range of the region to a tensor.

        Returns:
            Those that had bytes there until now. They are marked as overwritten.
        """
        with self._lock:
            low = bisect_left(self._latest, span.offset, key=lambda entry: entry[1] - 1)
            high = bisect_left(self._latest, span.end, low, key=lambda entry: entry[0])
            found = [ref() for _, _, ref in self._latest[low:high]]
            self._latest[low:high] = [(span.offset, span.end, weakref.ref(span))]
        before = [other for other in found if other is not None]
        for other in before:
            other.overwritten_by = span.name
        return before


class Span:
    """The place of a tensor's bytes.

    Attributes:
        region: in which it lies.
        name: of the tensor, for messages.
        offset: of the first byte, in the file; a multiple of PAGE.
        nbytes: of the tensor.
        overwritten_by: the tensor that got the place, or a part of it, later; empty if none did.
    """

    def __init__(self, region: Region, name: str, offset: int, nbytes: Bytes) -> None:
        self.region, self.name = region, name
        self.offset, self.nbytes = region.offset + offset, nbytes
        self.overwritten_by = ""

    @property
    def end(self) -> int:
        """Behind the last byte that a write of it changes."""
        return self.offset + whole_pages(self.nbytes)

    def failure(self, direction: Direction, reason: str, errno: int | None = None) -> TransferError:
        """Returns the error that names the tensor, its place and the reason."""
        folder = str(self.region.file.way.folder)
        way = f"written to {folder}" if direction == "write" else f"read back from {folder}"
        return TransferError(
            f"tensor {self.name!r} could not be {way}: {reason} "
            f"({self.nbytes} bytes at {self.offset} of the file, region {self.region.number})",
            tensor=self.name,
            direction=direction,
            folder=folder,
            offset=self.offset,
            errno=errno,
        )


class AddressSpace:
    """The regions in one file."""

    def __init__(self, file: TierFile) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._regions: weakref.WeakSet[Region] = weakref.WeakSet()
        self._numbers = count(1)

    def open(self, nbytes: Bytes) -> Region:
        """Returns a new region at the first place with room. Grows the file if there is none.

        Raises:
            TierFullError: the disk is full.
        """
        nbytes = whole_pages(nbytes)
        with self._lock:
            offset = self._first_fit(nbytes)
            self.file.grow(offset + nbytes)
            region = Region(self.file, offset, nbytes, next(self._numbers))
            self._regions.add(region)
        return region

    def reserve(self, nbytes: Bytes) -> None:
        """Grows the file so that a region of this size has room beside those that are open now."""
        nbytes = whole_pages(nbytes)
        with self._lock:
            self.file.grow(self._first_fit(nbytes) + nbytes)

    def trim(self) -> None:
        """Gives what lies behind the last open region back to the disk."""
        with self._lock:
            self.file.trim(max((r.end for r in self._regions), default=0))

    def _first_fit(self, nbytes: Bytes) -> int:
        end = 0
        for region in sorted(self._regions, key=lambda r: r.offset):
            if region.offset - end >= nbytes:
                break
            end = max(end, region.end)  # an empty region may lie inside of another
        return end
