"""Numbers of bytes, and shares of them, as people write them: "24GiB", "1.5 KiB", "80%"."""

from __future__ import annotations

import re

from roam.core.errors import ShareFormatError, SizeFormatError

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def parse_size(text: str | int) -> int:
    """Bytes. A number is taken as it is; a text needs a unit. Raises SizeFormatError."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", str(text))
    if isinstance(text, bool) or found is None or found[2].upper() not in UNITS:
        raise SizeFormatError(f"{text!r} is no size: write a number and a unit, such as '24GiB'")
    return int(float(found[1]) * UNITS[found[2].upper()])


def parse_share(text: str) -> float:
    """Returns the share that a text such as "80%" names, at most 1. Raises ShareFormatError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if found is None or not 0 < float(found[1]) <= 100:
        raise ShareFormatError(
            f"{text!r} is no share: write a number above 0 and up to 100 with a percent sign, such "
            "as '80%'"
        )
    return float(found[1]) / 100


def show_size(size: int) -> str:
    """The bytes in the largest binary unit that leaves a number of at least one."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"
