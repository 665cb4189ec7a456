"""Compiles functions if numba is installed (`pip install roam-planner[exact]`).

Without numba they are interpreted, with the same answers. Compiling takes some seconds, once: numba
caches the result beside the sources. It notices a change in a function's own file only, so remove
`__pycache__/*.nbi` after editing one of these modules.
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
