"""Compiled where numba is installed (`pip install roam-planner[exact]`), interpreted where not.

The source is one and the same, and so are the answers. Compiling takes some seconds, once: numba
keeps the result beside the sources. It notices a change in a function's own file only, so after
editing one of these modules remove `__pycache__/*.nbi`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

F = TypeVar("F")

if TYPE_CHECKING:

    def compiled(function: F) -> F: ...

    COMPILED: bool
else:
    try:
        from numba import njit
    except ImportError:
        COMPILED = False

        def compiled(function):
            return function
    else:
        COMPILED = True
        compiled = njit(cache=True, nogil=True)
