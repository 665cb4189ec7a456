"""Numbers of seconds as people read them."""

from __future__ import annotations

from roam.core.machine import Seconds


def show_seconds(seconds: Seconds) -> str:
    """Three digits, in seconds, milliseconds or microseconds."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((name for name, factor in units.items() if seconds >= factor), "µs")
    number = seconds / units[unit]
    return f"{number:.{max(0, 3 - len(str(int(number))))}f} {unit}"
