"""Real text that every machine has: the sources of Python's own standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tests are long lists of cases; site-packages is whatever the user happened to install.
SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__"})


def text(size: int) -> bytes:
    """The first `size` bytes of the standard library's sources, read in the order of their paths.

    The same Python gives the same bytes on every machine. Shorter when the library is.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    found = bytearray()
    for path in _sources(library):
        if len(found) >= size:
            break
        try:
            found += path.read_bytes()
        except OSError:
            continue  # a file that this user may not read is one text fewer
    return bytes(found[:size])


def _sources(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts[:-1]):
            yield path
