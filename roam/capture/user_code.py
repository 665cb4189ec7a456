"""Finds the line of the user's own code that an error message should name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from traceback import FrameSummary

import torch

# torch, roam, and importlib, which imports the user's modules
ROAM = Path(__file__).parents[1]
LIBRARIES = tuple(map(str, (ROAM, Path(torch.__file__).parent, Path(importlib.__file__).parent)))


def innermost_line(frames: Iterable[FrameSummary]) -> str:
    """Returns the innermost line of the user's own code, or "" if no frame is the user's.

    Looks like " (net.py, line 6, in forward: h = f(x))".

    Args:
        frames: a traceback, the outermost frame first.
    """
    own = [f for f in frames if not f.filename.startswith((*LIBRARIES, "<"))]
    if not own:
        return ""
    last = own[-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name}: {last.line})"
