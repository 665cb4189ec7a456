"""Compiles functions with numba, if that is installed (`pip install roam-planner[exact]`).

Without numba the functions are interpreted and return the same. Compiling takes some seconds, once:
numba caches the machine code beside the sources. To find outdated code, numba looks only at the
file of the function itself, and not at those of the functions that it calls. So remove
`__pycache__/*.nbi` after editing a module that uses `compiled`.
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
