"""Where in the user's own code something happened, for messages of one line."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from traceback import FrameSummary

import torch

# torch's code, ours, and what imports the user's
ROAM = Path(__file__).parents[1]
LIBRARIES = tuple(map(str, (ROAM, Path(torch.__file__).parent, Path(importlib.__file__).parent)))


def innermost_line(frames: Iterable[FrameSummary]) -> str:
    """Returns the last line of the user's own code: " (net.py, line 6, in forward: h = f(x))".

    Empty where all of them are. frames: the outermost first.
    """
    own = [f for f in frames if not f.filename.startswith((*LIBRARIES, "<"))]
    if not own:
        return ""
    last = own[-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name}: {last.line})"
