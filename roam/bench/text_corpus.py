"""Reads the sources of Python's own standard library: real text that every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tests are long lists of cases, and site-packages differs between machines.
SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__"})


def text(size: int) -> bytes:
    """Returns the first `size` bytes of the standard library's sources, in the order of the paths.

    The same Python gives the same bytes on every machine. Fewer bytes if the library is shorter.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    found = bytearray()
    for path in _sources(library):
        if len(found) >= size:
            break
        try:
            found += path.read_bytes()
        except OSError:
            continue  # a file that this user may not read is left out
    return bytes(found[:size])


def _sources(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts[:-1]):
            yield path
