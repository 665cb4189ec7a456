"""Reads real text that every machine has: the standard library's sources, and its help pages."""

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


def prose(size: int) -> bytes:
    """Returns the first `size` bytes of Python's reference pages, English prose with examples.

    These are what `help("topics")` shows, 465,000 bytes. `text` of up to 4 MiB has none of it.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode()[:size]


def _sources(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts[:-1]):
            yield path
